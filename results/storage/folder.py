"""Files of a store: a local folder, or an object store through pyarrow.fs."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from results.errors import StoreError
from results.storage import temporary

T = TypeVar("T")
PATIENCE = 60.0  # seconds; SHRINKGRID_PATIENCE in the environment is another
_ENDPOINTS = {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}  # variables that name a server


class Folder(Protocol):
    """What a store needs of the place where it lies; paths are relative to it."""

    uri: str
    local: Path | None

    def names(self, path: str) -> list[str]:
        """Names of the files in a folder, sorted; empty where there is no folder."""

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, None where there is none."""

    def write(self, path: str, data: Any) -> None:
        """Make a whole file appear at once, durable; replaces one of the same name."""

    def move(self, path: str, target: str) -> bool:
        """Rename a file, if it is there; whether it was."""

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""


class LocalFolder:
    """A folder of this machine, or of a file system that all machines mount."""

    def __init__(self, root: Path) -> None:
        self.local: Path | None = root
        self.root = root
        self.uri = str(root)

    def names(self, path: str) -> list[str]:
        """Names of the files in a folder, sorted."""
        try:
            with os.scandir(self.root / path) as entries:
                return sorted(e.name for e in entries if not e.is_dir())
        except FileNotFoundError:
            return []
        except OSError as why:
            raise explained(why, self.uri) from why

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, None where there is none."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as why:
            raise explained(why, self.uri) from why

    def write(self, path: str, data: Any) -> None:
        """Write beside, then rename."""
        target = self.root / path
        beside = temporary.beside(target)
        try:
            with _retried_with_parent(beside) as descriptor:
                view = memoryview(data)
                while view:
                    # ``write`` may take a part of the bytes only, as on a full disk.
                    view = view[os.write(descriptor, view) :]
                # First the bytes, then the name, then the folder that holds the name:
                # after a power cut there is the whole file or none.
                os.fsync(descriptor)
            os.replace(beside, target)
            fsync_folder(target.parent)
        except OSError as why:
            with contextlib.suppress(OSError):  # of the same kind as ``why``
                beside.unlink(missing_ok=True)
            raise explained(why, self.uri) from why

    def move(self, path: str, target: str) -> bool:
        """Rename a file, if it is there; whether it was."""
        try:
            (self.root / target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.root / path, self.root / target)
        except FileNotFoundError:
            return False
        except OSError as why:
            raise explained(why, self.uri) from why
        return True

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        try:
            (self.root / path).unlink(missing_ok=True)
        except OSError as why:
            raise explained(why, self.uri) from why


class RemoteFolder:
    """A bucket or any other file system of pyarrow; one PUT makes a file appear.

    Every request is made again, with growing pauses, until it succeeds or ``patience``
    is over: none does harm when repeated.
    """

    def __init__(self, filesystem: Any, root: str, uri: str) -> None:
        self.local: Path | None = None
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.uri = uri

    def names(self, path: str) -> list[str]:
        """Names of the files in a folder, sorted."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"{self.root}/{path}", allow_not_found=True)
        found = self._patiently(lambda: self.filesystem.get_file_info(selector))
        return sorted(i.base_name for i in found if i.type == FileType.File)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, None where there is none."""

        # The stream is opened again at each try, since half of an answer cannot be
        # continued.
        def get() -> bytes:
            with self.filesystem.open_input_file(f"{self.root}/{path}") as file:
                content: bytes = file.read()
                return content

        try:
            return self._patiently(get)
        except FileNotFoundError:
            return None

    def write(self, path: str, data: Any) -> None:
        """One PUT."""
        whole = f"{self.root}/{path}"

        def put() -> None:
            # A bucket has no folders; other file systems of pyarrow need them.
            self.filesystem.create_dir(whole.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(whole) as stream:
                stream.write(data)

        self._patiently(put)

    def move(self, path: str, target: str) -> bool:
        """Rename a file, if it is there; whether it was."""
        source = f"{self.root}/{path}"
        parent = f"{self.root}/{target}".rpartition("/")[0]

        def rename() -> None:
            self.filesystem.create_dir(parent, recursive=True)
            try:
                self.filesystem.move(source, f"{self.root}/{target}")
            except OSError as why:  # S3 says no more than that the copy failed
                if not self.filesystem.get_file_info(source).is_file:
                    raise FileNotFoundError(source) from why
                raise

        try:
            self._patiently(rename)
        except FileNotFoundError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self.filesystem.delete_file(f"{self.root}/{path}"))

    def _patiently(self, request: Callable[[], T]) -> T:
        return patiently(request, self.uri)


def patience() -> float:
    """Seconds that an object store may be away before a run stops."""
    return float(os.environ.get("SHRINKGRID_PATIENCE", PATIENCE))


def patiently(request: Callable[[], T], uri: str) -> T:
    """What a request of an object store returns, once it succeeds.

    Args:
        request: May be made again.
        uri: Of the store, for the message.

    Returns:
        Its result.

    Raises:
        FileNotFoundError: If there is no such file; this is an answer.
        StoreError: If the store does not answer, or refuses.
    """
    deadline, pause = time.monotonic() + patience(), 0.5
    while True:
        try:
            return request()
        # An answer, and not a failure to answer.
        except FileNotFoundError:
            raise
        # A refusal does not change within a minute.
        except PermissionError as why:
            raise explained(why, uri) from why
        except OSError as why:
            # The last try is the one after which the next pause would end too late.
            if time.monotonic() + pause > deadline:
                raise explained(why, uri) from why
        time.sleep(pause * random.uniform(0.5, 1.0))  # drivers and workers spread out
        pause = min(2 * pause, 10.0)


def folder(uri: str | Path) -> Folder:
    """The place that a path or a URI (``s3://bucket/store``) names.

    Args:
        uri: A path, or a URI of a file system that pyarrow knows.

    Returns:
        The folder; nothing is created and, for a path, nothing is read.

    Raises:
        StoreError: If pyarrow knows no such file system, or no bucket is named.
    """
    text = str(uri)
    try:
        text.encode()
    except UnicodeEncodeError as why:
        raise StoreError(
            f"the store {text!r} has a name that is not UTF-8; rename the folder, or "
            "name another with --store"
        ) from why
    if "\0" in text:
        raise StoreError(f"the store {text!r} has a character NUL in its name")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    # Without this check ``s3:/bucket`` would be a local folder called ``s3:``.
    if re.match(r"[a-z][a-z0-9]+:/(?!/)", text):
        raise StoreError(f"the store {text!r} has one slash behind the colon, not two")
    if "://" not in text:
        return LocalFolder(Path(text).expanduser().absolute())
    from pyarrow.fs import FileSystem

    if "endpoint_override=" in text or _ENDPOINTS & os.environ.keys():
        # Servers other than Amazon's refuse uploads with the checksums that its SDK
        # adds since 2025, as Ceph 16 does with status 411.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    try:
        filesystem, root = FileSystem.from_uri(text)
    except (ValueError, OSError) as why:
        raise StoreError(
            f"no file system for the store {text!r}: {why}; "
            "use a folder, or a URI such as s3://bucket/store"
        ) from why
    if not root:
        raise StoreError(
            f"the store {text!r} names no bucket; write {text}BUCKET/STORE"
        )
    return RemoteFolder(filesystem, root, text)


@contextlib.contextmanager
def _retried_with_parent(path: Path) -> Iterator[int]:
    """Open ``path`` for writing; its folder is made only where it is missing."""
    # The folder exists nearly always: asking for it before each write would cost as
    # much as the write.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make a rename survive a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explained(why: OSError, uri: str) -> StoreError:
    """The operating system's reason, with what to do about it.

    Args:
        why: Error that the file system raised.
        uri: Path or URI of the store.

    Returns:
        The error for a person.
    """
    if why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"the store {uri} cannot grow: {why.strerror}; nothing that was stored is "
            "lost; free some space and type the same command again"
        )
    if why.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"the store {uri} does not allow this: {why.strerror} "
            f"({why.filename}); change its permissions, or name another with --store"
        )
    if why.errno == errno.ENOTDIR:
        return StoreError(
            f"the store {uri} is, or lies under, a file; a store is a folder: "
            "name another with --store"
        )
    return StoreError(
        f"the store {uri} cannot be used: {why}; nothing that was stored is lost, type "
        "the same command again when it can be reached"
    )
