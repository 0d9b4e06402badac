"""Files that a user names, and standard output: the figures' half of engine/io/output_file.h and
experiments/run/program.cpp, whose rules these are."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import sys

import interrupt

KEEP_NEW_FILES_OUT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)
CANNOT_BE_SYNCED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def note(text, end="\n"):
    """A line on stderr, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True, end=end)


# --- Files ----------------------------------------------------------------------------------------


def write_output(name, data):
    """Writes bytes to a name that a user gave. Into descriptors ("-", /dev/stdout), devices and pipes;
    through symbolic links; in the place of a file in one step, with its mode, owner and attributes;
    over it, said on stderr, where a new file cannot take its place. Folders on the way are made.
    OSError."""
    name = os.fspath(name)
    if name == "-":
        return _write_descriptor(1, data)
    target = _followed(name)
    descriptor = _descriptor(target)
    if descriptor is not None:
        return _write_descriptor(descriptor, data)
    try:
        kind = os.stat(name).st_mode
    except FileNotFoundError:
        if not os.path.basename(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        os.makedirs(_folder(target), exist_ok=True)
        with _new_file(target, 0o666) as (file, place):
            _write_all(file, data)
            place()
        return None
    if stat.S_ISREG(kind):
        return _replace(name, target, data)
    file = os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _write_all(file, data)
    finally:
        os.close(file)
    return None


def _folder(path):
    return os.path.dirname(path) or "."


def _descriptor(path):
    """N where the path is one of this process's own descriptors: /dev/fd/N, /proc/self/fd/N."""
    folder, number = os.path.realpath(_folder(path)), os.path.basename(path)
    own = re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder)
    return int(number) if own and number.isdecimal() else None


def _followed(path):
    """What the path leads to through symbolic links, those too that lead nowhere yet."""
    for _ in range(40):
        if _descriptor(path) is not None or not os.path.islink(path):
            return path
        path = os.path.join(_folder(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def identity(name):
    """What all names of one file, pipe or device have in common, those too of a file to come."""
    target = _followed("/dev/stdout" if name == "-" else os.fspath(name))
    descriptor = _descriptor(target)
    try:
        status = os.stat(target) if descriptor is None else os.fstat(descriptor)
        return status.st_dev, status.st_ino
    except OSError:
        return os.path.realpath(target)


def _write_all(file, data):
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest):]


def _write_descriptor(descriptor, data):
    if descriptor == 1 and sys.stdout is not None:
        sys.stdout.flush()
    file = os.dup(descriptor)
    try:
        os.set_blocking(file, True)
        _write_all(file, data)
    finally:
        os.close(file)


def _sync(file, also=()):
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (*CANNOT_BE_SYNCED, *also):
            raise


def _sync_folder(folder):
    with contextlib.suppress(PermissionError):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(file, also=(errno.EPERM, errno.EBADF))
        finally:
            os.close(file)


@contextlib.contextmanager
def _new_file(target, mode):
    """A file with a name that nobody else has, and what puts it in its place when it is written."""
    folder = _folder(target)
    start = os.fsdecode(os.fsencode(os.path.basename(target))[:200])
    name = os.path.join(folder, f".{start}.{secrets.token_hex(8)}.tmp")
    placed = False

    def place():
        nonlocal placed
        _sync(file)
        os.replace(name, target)
        placed = True
        _sync_folder(folder)

    with interrupt.Delay():
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            yield file, place
        finally:
            os.close(file)
            if not placed:
                os.unlink(name)


def _attributes(file):
    """Those that a program may carry from file to file."""
    try:
        names = os.listxattr(file)
    except OSError:
        return {}
    return {name: os.getxattr(file, name) for name in names if name == "security.selinux"
            or not name.startswith(("security.", "trusted."))}


def _take_attributes(old, fresh):
    """Whether the new file has the owner, mode, access list and attributes of the old one."""
    status, now = os.fstat(old), os.fstat(fresh)
    try:
        if (status.st_uid, status.st_gid) != (now.st_uid, now.st_gid):
            os.fchown(fresh, status.st_uid, status.st_gid)
        with contextlib.suppress(OSError):
            os.removexattr(fresh, "system.posix_acl_access")
        has = _attributes(fresh)
        for name, value in _attributes(old).items():
            if has.get(name) != value:
                os.setxattr(fresh, name, value)
        os.fchmod(fresh, stat.S_IMODE(status.st_mode))
    except OSError:
        return False
    now = os.fstat(fresh)
    return (now.st_uid, now.st_gid, now.st_mode) == (status.st_uid, status.st_gid, status.st_mode)


def _overwrite(file, name, data, why):
    """One after the other where several do. What there is room for is asked first."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
    with interrupt.Delay():
        size = os.fstat(file).st_size
        if len(data) > size:
            try:
                os.posix_fallocate(file, 0, len(data))
            except OSError as error:
                os.ftruncate(file, size)
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
        _write_all(file, data)
        os.ftruncate(file, len(data))
        _sync(file)
    note(f"{name}: overwritten, not replaced in one step ({why})")


def _open_both(name, target):
    """The file, and whether the target is it: not while another writer replaces it."""
    for _ in range(100):
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file), os.lstat(target)):
                return file, True
        os.close(file)
    return os.open(name, os.O_WRONLY | os.O_CLOEXEC), False


def _replace(name, target, data):
    file, same = _open_both(name, target)
    try:
        links = os.fstat(file).st_nlink
        if not same:
            return _overwrite(file, name, data, "it has no name of its own")
        if links > 1:
            return _overwrite(file, name, data, f"it has {links} names")
        why = "a new file could not have its owner and attributes"
        try:
            with _new_file(target, 0o600) as (fresh, place):
                if _take_attributes(file, fresh):
                    _write_all(fresh, data)
                    return place()
        except OSError as error:
            if error.errno not in KEEP_NEW_FILES_OUT:
                raise
            why = f"no new file can take its place: {error.strerror}"
        return _overwrite(file, name, data, why)
    finally:
        os.close(file)


# --- Standard output ------------------------------------------------------------------------------


class Stream:
    """stdout or stderr of a program whose words may be lost, but not its work: a full disk or a
    reader that has gone are kept for the end, and what its encoding does not have is escaped."""

    def __init__(self, stream):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        self.error = None if stream is not None else os.strerror(errno.EBADF)

    def _do(self, action, *arguments):
        if self.error is None:
            try:
                return action(*arguments)
            except OSError as error:
                self.error = error.strerror
                with contextlib.suppress(OSError, ValueError):  # what it still holds goes nowhere
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, self.stream.fileno())
                    os.close(nowhere)
        return None

    def write(self, text):
        self._do(self.stream.write if self.stream else None, text)
        return len(text)

    def flush(self):
        self._do(self.stream.flush if self.stream else None)

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextlib.contextmanager
def standard_streams():
    """Within it, print() loses words at worst, and no file takes the number of a closed stream."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stream(kept[0]), Stream(kept[1])
    try:
        yield sys.stdout
    finally:
        sys.stdout, sys.stderr = kept
