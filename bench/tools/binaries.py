"""The programs that ./run gpu runs: the bundle's where they are of this source, or else built here."""

import glob
import hashlib
import os
import pathlib
import re
import subprocess

import source
from machine import library_folders, nvcc
from processes import ROOT

BUNDLE = ROOT / "build" / "bundle"
PROGRAMS = ["localization", "overlap", "sweep", "leak", "diffusion", "sidechannel_tests", "bench_cuda",
            "bench_step"]


def source_digest():
    """Of everything that programs are built from, so that prebuilt ones are known to be of this
    source."""
    files = [ROOT / "CMakeLists.txt"]
    for folder in ("kernels", "engine", "models", "experiments", "bench", "tests"):
        for ending in ("h", "cpp", "cu", "cuh", "txt", "cmake", "json"):
            files += (ROOT / folder).rglob(f"*.{ending}")
    digest = hashlib.sha256()
    for file in sorted(files):
        name = str(file.relative_to(ROOT))
        if not name.startswith("bench/results/"):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def commit():
    note = BUNDLE / "COMMIT"
    return source.commit() or (note.read_text().strip() if note.exists() else "") or "unknown"


def runs_here(program, argument):
    """The environment in which a program runs here, or why it does not."""
    env = {}
    for _ in range(6):
        try:
            result = subprocess.run([program, argument], capture_output=True, text=True, timeout=60,
                                    env={**os.environ, **env}, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return None, str(error)
        if result.returncode == 0:
            return env, ""
        missing = re.search(r"loading shared libraries: (\S+): cannot open", result.stderr)
        folder = missing and next((folder for folder in library_folders()
                                   if os.path.exists(f"{folder}/{missing.group(1)}")), None)
        if not folder:
            return None, (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
        known = env.get("LD_LIBRARY_PATH", os.environ.get("LD_LIBRARY_PATH", ""))
        env = {"LD_LIBRARY_PATH": f"{known}:{folder}".lstrip(":")}
    return None, "libraries are missing"


def prebuilt():
    """(folder, environment) of the bundle's programs, or (None, why not)."""
    programs = BUNDLE / "bin"
    digest = BUNDLE / "SOURCE"
    if not programs.exists():
        return None, "none in the bundle"
    if not digest.exists() or digest.read_text().strip() != source_digest():
        return None, "they are of another source"
    for program in PROGRAMS:
        env, reason = runs_here(programs / program, "--help")
        if env is None:
            return None, f"{program}: {reason}"
    return programs, env


def cublas_options(folder):
    """For a toolkit without cuBLASLt: the one that PyTorch brings."""
    if glob.glob(f"{pathlib.Path(nvcc()).resolve().parents[1]}/include/cublasLt.h") or \
            glob.glob("/usr/include/cublasLt.h"):
        return [], {}
    for libraries in library_folders():
        found = glob.glob(f"{libraries}/libcublasLt.so*")
        include = pathlib.Path(libraries).parent / "include"
        if found and (include / "cublasLt.h").exists():
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / "libcublasLt.so"  # PyTorch's have only their full names
            link.unlink(missing_ok=True)
            link.symlink_to(found[0])
            return [f"-DCUDA_cublasLt_LIBRARY={link}", f"-DCMAKE_BUILD_RPATH={libraries}"], \
                {"CPLUS_INCLUDE_PATH": str(include)}
    return [], {}
