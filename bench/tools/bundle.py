#!/usr/bin/env python3
"""The libraries that a build needs, in a folder: what ./run bundle calls, from the project's root.

    python3 bench/tools/bundle.py [FOLDER]

FOLDER (build/bundle) then works as CMAKE_PREFIX_PATH on another machine of this processor family,
without network or root. It holds headers, GoogleTest as static libraries, Google Benchmark as a
shared one, and CMake's configurations, which find everything from where they stand. fmt becomes
header-only; of Boost only the headers that our sources include are taken, and what those include.
What is there is replaced, so that running it twice is running it once.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from binaries import commit
from processes import ROOT

CXX = os.environ.get("CXX", "c++")

# Folders of headers that are taken whole, each with one that tells where it is.
HEADERS = {"fmt": "format.h", "hwy": "highway.h", "CLI": "CLI.hpp", "nlohmann": "json.hpp",
           "Random123": "philox.h", "gtest": "gtest.h", "benchmark": "benchmark.h"}

# Packages of headers alone: their target, where in include/ they are, and what else there is to say.
HEADER_ONLY = {
    "fmt": ("fmt::fmt", "", "set_property(TARGET fmt::fmt PROPERTY\n"
                            "  INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY=1)\n"),
    "Eigen3": ("Eigen3::Eigen", "/eigen3", ""),
    "nlohmann_json": ("nlohmann_json::nlohmann_json", "", ""),
    "CLI11": ("CLI11::CLI11", "", ""),
    "Boost": ("Boost::headers", "", 'set(Boost_INCLUDE_DIRS "${prefix}/include")\n'),
}

# Packages: the target that shows that one was found already, and what makes it.
CONFIGURATIONS = {
    **{package: (target, f"""
add_library({target} INTERFACE IMPORTED)
set_target_properties({target} PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${{prefix}}/include{folder}")
{more}""") for package, (target, folder, more) in HEADER_ONLY.items()},
    "GTest": ("GTest::gtest", """
find_package(Threads REQUIRED)
foreach(name gtest gtest_main)
  add_library(GTest::${name} STATIC IMPORTED)
  set_target_properties(GTest::${name} PROPERTIES
    IMPORTED_LOCATION "${prefix}/lib/lib${name}.a"
    INTERFACE_INCLUDE_DIRECTORIES "${prefix}/include"
    INTERFACE_LINK_LIBRARIES Threads::Threads)
endforeach()
set_target_properties(GTest::gtest_main PROPERTIES INTERFACE_LINK_LIBRARIES GTest::gtest)
"""),
    "benchmark": ("benchmark::benchmark", """
find_package(Threads REQUIRED)
add_library(benchmark::benchmark SHARED IMPORTED)
set_target_properties(benchmark::benchmark PROPERTIES
  IMPORTED_LOCATION "${prefix}/lib/@benchmark@"
  IMPORTED_SONAME "@benchmark@"
  INTERFACE_INCLUDE_DIRECTORIES "${prefix}/include"
  INTERFACE_LINK_LIBRARIES Threads::Threads)
"""),
}

# The configuration of each package begins with this; the prefix is three folders up.
PREAMBLE = """get_filename_component(prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(TARGET @target@)
  return()
endif()
"""


def compiler_output(*arguments, text=""):
    return subprocess.run([CXX, *arguments], input=text, capture_output=True, text=True,
                          check=True).stdout


def prefixes():
    return [pathlib.Path(prefix) for prefix in
            os.environ.get("CMAKE_PREFIX_PATH", "").replace(";", ":").split(":") if prefix]


def include_of(*headers):
    """The folder in which CMAKE_PREFIX_PATH or the compiler finds the first of these that is."""
    for header in headers:
        for prefix in prefixes():
            if (prefix / "include" / header).exists():
                return prefix / "include"
        try:
            listed = compiler_output("-x", "c++", "-M", "-", text=f"#include <{header}>\n")
        except subprocess.CalledProcessError:
            continue
        for word in listed.replace("\\\n", " ").split():
            if word.endswith("/" + header):
                return pathlib.Path(word.removesuffix("/" + header))
    sys.exit(f"bundle: {' or '.join(headers)} was not found")


def library(name):
    """A library's file, where the linker finds it."""
    for prefix in prefixes():
        if (prefix / "lib" / name).exists():
            return (prefix / "lib" / name).resolve()
    found = compiler_output(f"-print-file-name={name}").strip()
    if found == name:
        sys.exit(f"bundle: {name} was not found")
    return pathlib.Path(found).resolve()


def soname(file):
    """The name under which programs ask for a shared library."""
    out = subprocess.run(["objdump", "-p", file], capture_output=True, text=True, check=True).stdout
    return next(line.split()[1] for line in out.splitlines() if "SONAME" in line)


def boost_headers(include):
    """What our sources include of Boost, by the preprocessor's own account, and Boost's
    configuration, of which another compiler may take other parts."""
    sources = [path for room in ("engine", "experiments", "tests")
               for path in (ROOT / room).rglob("*.[ch]*")
               if path.suffix in (".h", ".cpp") and "<boost/" in path.read_text()]
    wanted = sorted({line.split("<")[1].split(">")[0] for path in sources
                     for line in path.read_text().splitlines()
                     if line.startswith("#include <boost/")})
    text = "".join(f"#include <{header}>\n" for header in wanted)
    listed = compiler_output("-x", "c++", "-std=c++20", f"-I{include}", "-M", "-", text=text)
    found = {pathlib.Path(word) for word in listed.replace("\\\n", " ").split()
             if word.startswith(f"{include}/boost/")}
    found |= set((include / "boost" / "config").rglob("*.hpp")) | {include / "boost/version.hpp"}
    return sorted(found)


def main():
    bundle = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "bundle").resolve()
    for part in ("include", "lib", "COMMIT"):
        path = bundle / part
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    (bundle / "include").mkdir(parents=True)
    (bundle / "lib").mkdir()

    for name, header in HEADERS.items():
        shutil.copytree(include_of(f"{name}/{header}") / name, bundle / "include" / name)
    eigen = include_of("eigen3/Eigen/Core", "Eigen/Core")
    if (eigen / "eigen3").exists():
        eigen /= "eigen3"
    shutil.copytree(eigen / "Eigen", bundle / "include" / "eigen3" / "Eigen")
    include = include_of("boost/version.hpp")
    for header in boost_headers(include):
        target = bundle / "include" / header.relative_to(include)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(header, target)

    for name in ("libgtest.a", "libgtest_main.a"):
        shutil.copy2(library(name), bundle / "lib" / name)
    # The last two are for programs that are built here and carried along: the machine's may be older.
    # What is built there must not take them, and does not look into that folder.
    names = {}
    (bundle / "lib" / "programs").mkdir()
    for name, folder in (("libbenchmark.so", "lib"), ("libstdc++.so.6", "lib/programs"),
                         ("libgcc_s.so.1", "lib/programs")):
        file = library(name)
        names[name] = soname(file)
        shutil.copy2(file, bundle / folder / names[name])

    for package, (target, text) in CONFIGURATIONS.items():
        folder = bundle / "lib" / "cmake" / package
        folder.mkdir(parents=True)
        text = PREAMBLE.replace("@target@", target) + text.lstrip()
        text = text.replace("@benchmark@", names["libbenchmark.so"])
        (folder / f"{package}Config.cmake").write_text(text)
        # Whatever version is asked for is the one that this was made from.
        (folder / f"{package}ConfigVersion.cmake").write_text(
            "set(PACKAGE_VERSION ${PACKAGE_FIND_VERSION})\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n")
    (bundle / "COMMIT").write_text(commit() + "\n")
    megabytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6
    print(f"{bundle}: {megabytes:.1f} MB, for CMAKE_PREFIX_PATH")


if __name__ == "__main__":
    main()
