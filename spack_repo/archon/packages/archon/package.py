from glob import glob
from pathlib import Path

from spack_repo.builtin.build_systems.cmake import CMakePackage, generator
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *


class Archon(CMakePackage, CudaPackage):
    """Post-training of large language models (supervised fine-tuning, reinforcement learning) as an
    MPI application in C++20, on a mesh of data, context and tensor parallel ranks."""

    license("Apache-2.0")

    # Nothing is released, and there is no public address: the sources are the checkout that this
    # recipe lies in. The spack.yaml at its top develops them in place (docs/spack.md).
    git = Path(__file__).resolve().parents[4].as_uri()

    version("main", branch="main")

    variant("tests", default=False, description="Build the tests; spack install --test=root runs them")

    generator("ninja")

    depends_on("c", type="build")  # CMake's FindMPI and FindHDF5 of the C interfaces
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")

    # mpiexec starts the stand-alone tests, which is a run of what is installed.
    depends_on("mpi@3.1:", type=("build", "link", "run"))
    depends_on("hdf5@1.10: +mpi")
    depends_on("boost@1.74: +program_options")
    depends_on("boost@1.74: +program_options+test", when="+tests")
    depends_on("fmt")
    depends_on("spdlog")
    depends_on("nlohmann-json@3")
    depends_on("xxhash", type="build")  # its header alone
    # LibTorch is the C++ part of this package.
    depends_on("py-torch@2.13: +openmp")
    conflicts(
        "^py-torch@2.14:",
        msg="Archon is tested with LibTorch 2.13 alone. Where Spack's packages lack that version, "
        "install the wheel torch==2.13.0 and declare it as an external py-torch (docs/spack.md)",
    )

    depends_on("py-torch ~cuda", when="~cuda")
    with when("+cuda"):
        depends_on("cuda@13:")
        depends_on("nccl@2.19: +cuda")
        depends_on("py-torch +cuda")
        for arch in CudaPackage.cuda_arch_values:
            depends_on(f"py-torch cuda_arch={arch}", when=f"cuda_arch={arch}")
            depends_on(f"nccl cuda_arch={arch}", when=f"cuda_arch={arch}")
        conflicts(
            "cuda_arch=none",
            msg="archon+cuda: name the GPUs it is for, as in cuda_arch=80,90 (A100, H100)",
        )

    conflicts("%gcc@:11", msg="Archon is C++20 as GCC 12 has it; take gcc@12 or newer")
    requires("platform=linux", msg="Archon reads /proc and loads ELF plugins; it runs on Linux only")

    @property
    def libtorch(self):
        """The folder of LibTorch, with include/ and lib/. Found by its place, since an external
        py-torch may belong to another Python than Spack knows of: a virtual environment's."""
        prefix = self.spec["py-torch"].prefix
        found = glob(join_path(prefix, "lib*", "python3*", "*-packages", "torch"))
        if not found:
            raise InstallError(
                f"no LibTorch in the prefix of py-torch, '{prefix}'",
                "There is no lib/python3*/site-packages/torch in it. The prefix of an external "
                "py-torch is that of its Python or virtual environment, as sys.prefix shows it.",
            )
        return found[0]

    def cmake_args(self):
        args = [
            self.define("LIBTORCH_ROOT", self.libtorch),
            self.define_from_variant("BUILD_TESTING", "tests"),
            self.define("ARCHON_BENCHMARKS", False),
            # Spack's compiler wrapper calls ccache itself where config:ccache says so.
            self.define("ARCHON_CCACHE", False),
            self.define_from_variant("ARCHON_CUDA", "cuda"),
        ]
        if self.spec.satisfies("+cuda"):
            architectures = self.spec.variants["cuda_arch"].value
            args += [
                self.define("CMAKE_CUDA_ARCHITECTURES", architectures),
                self.define("CUDAToolkit_ROOT", self.spec["cuda"].prefix),
                self.define("NCCL_ROOT", self.spec["nccl"].prefix),
            ]
        return args

    def check(self):
        """The C++ tests. The others are of scripts and documents, and need a Python with packages."""
        with working_dir(self.build_directory):
            which("ctest")("--output-on-failure", "-L", "^ranks")

    def setup_run_environment(self, env: EnvironmentModifications) -> None:
        # Slurm runs a copy of job_scripts/*.sbatch, which finds the others by this.
        env.set("ARCHON_ROOT", self.prefix.share.archon)

    # --- stand-alone tests: spack test run archon -------------------------------------------

    golden = join_path("tests", "golden", "q3_tiny")

    @run_after("install")
    def keep_golden(self):
        cache_extra_test_sources(self, self.golden)

    def golden_file(self, *names):
        return join_path(self.test_suite.current_test_cache_dir, self.golden, *names)

    def archon(self, *arguments, ranks=1):
        """Runs archon, with mpiexec on more than one rank, and gives what it printed."""
        command = [self.prefix.bin.archon, *arguments]
        if ranks > 1:
            mpi = self.spec["mpi"]
            options = ["--oversubscribe"] if mpi.satisfies("openmpi") else []
            command = [mpi.prefix.bin.mpiexec, *options, "-n", str(ranks), *command]
        program = Executable(command[0])
        # Containers often have no other user than root, whom Open MPI refuses unless told twice; Spack
        # takes what the environment says of it away.
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            program.add_default_env(name, "1")
        return program(*command[1:], output=str.split, error=str.split)

    def test_version(self):
        """archon tells its version"""
        check_outputs(r"archon [0-9]+\.[0-9]+\.[0-9]+", self.archon("--version"))

    def test_doctor(self):
        """every part of the machine that archon needs works"""
        check_outputs([r"MPI +OK", r"HDF5 +OK"], self.archon("doctor"))

    def test_plugins(self):
        """the plugins of the prefix are found"""
        names = [rf"{self.prefix}/.*/{name}\.so" for name in ("arithmetic", "qwen2", "qwen3")]
        check_outputs(names, self.archon("plugins"))

    def test_train(self):
        """two ranks train a new model for a step"""
        config = self.golden_file("model", "config.json")
        self.archon("init", "--config", config, "--output", "model")
        options = ["--data", self.golden_file("batch.h5"), "--steps", "1", "--batch-sequences", "2"]
        said = self.archon(
            "train", "--tp", "2", "--model", "model", *options, "--output", "run", ranks=2
        )
        check_outputs([r"tp 2 on 2 ranks", r"step 1/1 +loss"], said)

    def test_forward(self):
        """two ranks compute what HuggingFace computes"""
        what = ["logprobs", "entropy", "logits"]
        inputs = ["--model", self.golden_file("model"), "--data", self.golden_file("batch.h5")]
        outputs = ["--what", ",".join(what), "--output", "q3_tiny.h5"]
        self.archon("forward", "--cp", "2", *inputs, *outputs, ranks=2)
        only = [word for name in what for word in ("--only", name)]
        golden = self.golden_file("golden.h5")
        said = self.archon("diff", golden, "q3_tiny.h5", "--rtol", "2e-5", *only)
        check_outputs("passed: 3 datasets", said)
