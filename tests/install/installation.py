"""An installation in a folder of its own, from which alone programs are run."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(os.environ["ARCHON_TEST_SOURCE_DIR"])
BUILD = Path(os.environ["ARCHON_TEST_BINARY_DIR"])
CMAKE = os.environ["ARCHON_TEST_CMAKE"]
MPIEXEC = os.environ["ARCHON_MPIEXEC"]


def run(*command, code=0, **options):
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)
    if done.returncode != code:
        raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


class Installation:
    """Installed with LibTorch under a blank in the path, the umask 077 and no usable home, and
    moved elsewhere since."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="archon install-"))
        self.environment = {
            name: value for name, value in os.environ.items()
            if name.startswith("OMPI_") or name in ("OMP_NUM_THREADS", "TMPDIR")
        } | {"HOME": "/nonexistent", "LC_ALL": "C"}
        first = self.folder / "first place"
        self.prefix = self.folder / "second place"
        for component in ([], ["--component", "libtorch"]):
            run(CMAKE, "--install", BUILD, "--prefix", first, *component, umask=0o077,
                env=self.environment | {"PATH": os.environ["PATH"]})
        first.rename(self.prefix)
        self.plugins = next(self.prefix.glob("lib*/archon/plugins"))
        self.environment["PATH"] = f"{self.prefix / 'bin'}:{Path(MPIEXEC).parent}:/usr/bin:/bin"

    def remove(self):
        shutil.rmtree(self.folder)

    def run(self, *command, code=0):
        return run(*command, code=code, cwd=self.folder, env=self.environment)

    def archon(self, *arguments, mesh=(1, 1, 1), code=0):
        ranks = mesh[0] * mesh[1] * mesh[2]
        launcher = [] if ranks == 1 else [MPIEXEC, "--oversubscribe", "-n", ranks]
        axes = [] if ranks == 1 else ["--dp", mesh[0], "--cp", mesh[1], "--tp", mesh[2]]
        return self.run(*launcher, "archon", *arguments, *axes, code=code)
