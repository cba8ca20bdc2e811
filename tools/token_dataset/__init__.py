"""Makes HDF5 token datasets, the input of `archon train`, from text and JSON lines."""
