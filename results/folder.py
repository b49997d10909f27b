"""Files of a store: a local folder, or an object store through pyarrow.fs."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from results.errors import StoreError


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

    def move(self, path: str, target: str) -> None:
        """Rename a file."""

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
            raise _explained(why, self.uri) from why

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, None where there is none."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as why:
            raise _explained(why, self.uri) from why

    def write(self, path: str, data: Any) -> None:
        """Write beside, then rename."""
        target = self.root / path
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with _retried_with_parent(beside) as descriptor:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            os.replace(beside, target)
            fsync_folder(target.parent)
        except OSError as why:
            beside.unlink(missing_ok=True)
            raise _explained(why, self.uri) from why

    def move(self, path: str, target: str) -> None:
        """Rename a file."""
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.root / path, self.root / target)

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        (self.root / path).unlink(missing_ok=True)


class RemoteFolder:
    """A bucket or any other file system of pyarrow; one PUT makes a file appear."""

    def __init__(self, filesystem: Any, root: str, uri: str) -> None:
        self.local: Path | None = None
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.uri = uri

    def names(self, path: str) -> list[str]:
        """Names of the files in a folder, sorted."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"{self.root}/{path}", allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(i.base_name for i in found if i.type == FileType.File)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, None where there is none."""
        try:
            with self.filesystem.open_input_file(f"{self.root}/{path}") as file:
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            return None

    def write(self, path: str, data: Any) -> None:
        """One PUT."""
        whole = f"{self.root}/{path}"
        try:
            self.filesystem.create_dir(whole.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(whole) as stream:
                stream.write(data)
        except OSError as why:
            raise _explained(why, self.uri) from why

    def move(self, path: str, target: str) -> None:
        """Rename a file."""
        parent = f"{self.root}/{target}".rpartition("/")[0]
        self.filesystem.create_dir(parent, recursive=True)
        self.filesystem.move(f"{self.root}/{path}", f"{self.root}/{target}")

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.root}/{path}")


def folder(uri: str | Path) -> Folder:
    """The place that a path or a URI (``s3://bucket/store``) names.

    Args:
        uri: A path, or a URI of a file system that pyarrow knows.

    Returns:
        The folder; nothing is created and, for a path, nothing is read.

    Raises:
        StoreError: If pyarrow knows no such file system.
    """
    text = str(uri)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return LocalFolder(Path(text).expanduser().absolute())
    from pyarrow.fs import FileSystem

    try:
        filesystem, root = FileSystem.from_uri(text)
    except (ValueError, OSError) as why:
        raise StoreError(
            f"no file system for the store {text!r}: {why}; "
            "use a folder, or a URI such as s3://bucket/store"
        ) from why
    return RemoteFolder(filesystem, root, text)


@contextlib.contextmanager
def _retried_with_parent(path: Path) -> Iterator[int]:
    """Open ``path`` for writing; its folder is made only where it is missing."""
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


def _explained(why: OSError, uri: str) -> StoreError:
    """The operating system's reason, with what to do about it."""
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
    return StoreError(f"the store {uri} cannot be used: {why}")
