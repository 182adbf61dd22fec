"""Files, file sets and images: uploads and downloads."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable

from starlette.responses import FileResponse, Response

from .attributes import File, FileSet, ImageSeries, Json, date_time
from .files import BLOCK, StoredFile
from .handlers_attributes import field_of
from .operations import RefusedError, check_writable, existing
from .store import Container, NotFoundError, PathConflictError
from .uploads import Unpacked, relative_path, unpack
from .web import ApiError, Call, handles

# -- uploads --


def _refusal(call: Call, container: Container, kind: type[File] | type[FileSet]) -> RefusedError | None:
    """Why the field cannot take a file, if so."""
    path = call.params["attribute"]
    if call.refusal is not None:
        return RefusedError(call.refusal)
    try:
        check_writable(container, path)
        existing(container, path, kind)
        container.check_place(path)
    except RefusedError as error:
        return error
    except PathConflictError as error:
        return RefusedError(str(error))
    return None


def _put_file(container: Container, path: str, ext: str, stored: StoredFile) -> None:
    name = posixpath.basename(path) + (f".{ext}" if ext else "")
    container.put(path, File(name, ext, stored))
    container.touch()


def _add_to_set(container: Container, path: str, added: Unpacked, reset: bool = False) -> None:
    file_set = container.attributes.get(path)
    if reset or not isinstance(file_set, FileSet):
        file_set = FileSet()
        container.put(path, file_set)
    before = file_set.size
    file_set.directories |= added.directories
    for name, stored in added.files.items():
        replaced = file_set.put(name, stored)
        if replaced:
            replaced.discard()
    container.grown(file_set.size - before)
    container.touch()


def _errors(refusal: RefusedError | None) -> Json:
    return {"errors": [] if refusal is None else [refusal.as_json()]}


async def _receive(
    call: Call, kind: type[File] | type[FileSet], keep: Callable[[Container, str, StoredFile], None]
) -> RefusedError | None:
    """Takes the body in, whatever it is, and keeps it unless the field cannot take it."""
    container = call.container_to_write()
    stored = await call.server.uploads.receive(call.request)
    refusal = _refusal(call, container, kind)
    if refusal is None:
        keep(container, call.params["attribute"], stored)
    else:
        stored.discard()
    return refusal


@handles("fileAtomUpload")
async def file_atom_upload(call: Call) -> Json:
    return _errors(await _receive_file(call))


@handles("uploadAttribute")
async def upload_attribute(call: Call) -> Json | None:
    refusal = await _receive_file(call)
    return None if refusal is None else refusal.as_json()


async def _receive_file(call: Call) -> RefusedError | None:
    def keep(container: Container, path: str, stored: StoredFile) -> None:
        _put_file(container, path, call.params["ext"], stored)

    return await _receive(call, File, keep)


@handles("fileSetFileUpload")
async def file_set_file_upload(call: Call) -> Json:
    return _errors(await _receive_set_file(call, call.params["subPath"], reset=False))


@handles("uploadFileSetAttributeChunk")
async def upload_file_set_attribute_chunk(call: Call) -> Json | None:
    refusal = await _receive_set_file(call, call.params["path"], reset=call.params["reset"])
    return None if refusal is None else refusal.as_json()


async def _receive_set_file(call: Call, name: str, reset: bool) -> RefusedError | None:
    name = relative_path(name)

    def keep(container: Container, path: str, stored: StoredFile) -> None:
        _add_to_set(container, path, Unpacked({name: stored}), reset)

    return await _receive(call, FileSet, keep)


@handles("uploadFileSetAttributeTar")
async def upload_file_set_attribute_tar(call: Call) -> Json | None:
    container, path = call.container_to_write(), call.params["attribute"]
    archive = await call.server.uploads.receive(call.request)
    try:
        unpacked = await asyncio.to_thread(unpack, archive, call.store.folder)
    finally:
        archive.discard()
    refusal = _refusal(call, container, FileSet)
    if refusal is None:
        _add_to_set(container, path, unpacked, call.params["reset"])
        return None
    for stored in unpacked.files.values():
        stored.discard()
    return refusal.as_json()


# -- uploads in parts --


def _start(call: Call, kind: type[File] | type[FileSet], name: str) -> Json:
    container, path = call.container_to_write(), call.params["attribute"]
    refusal = _refusal(call, container, kind)
    if refusal is not None:
        return _errors(refusal)
    identifier = call.server.uploads.start(container, path, name, call.params["totalLength"])
    return {"uploadId": identifier, "errors": []}


@handles("fileAtomMultipartUploadStart")
def file_atom_multipart_upload_start(call: Call) -> Json:
    return _start(call, File, call.params["ext"])


@handles("fileSetFileMultipartUploadStart")
def file_set_file_multipart_upload_start(call: Call) -> Json:
    return _start(call, FileSet, relative_path(call.params["subPath"]))


@handles("fileAtomMultipartUploadPart")
@handles("fileSetFileMultipartUploadPart")
async def multipart_upload_part(call: Call) -> Json:
    params, uploads = call.params, call.server.uploads
    if call.refusal is not None:
        return _errors(RefusedError(call.refusal))
    upload = uploads.find(params["uploadId"], call.container_to_write(), params["attribute"])
    await uploads.receive_part(upload, params["uploadPartIdx"], params["X-Range"], call.request)
    return _errors(None)


@handles("fileAtomMultipartUploadFinish")
def file_atom_multipart_upload_finish(call: Call) -> Json:
    def keep(container: Container, path: str, name: str, stored: StoredFile) -> None:
        _put_file(container, path, name, stored)

    return _finish(call, File, keep)


@handles("fileSetFileMultipartUploadFinish")
def file_set_file_multipart_upload_finish(call: Call) -> Json:
    def keep(container: Container, path: str, name: str, stored: StoredFile) -> None:
        _add_to_set(container, path, Unpacked({name: stored}))

    return _finish(call, FileSet, keep)


def _finish(
    call: Call, kind: type[File] | type[FileSet], keep: Callable[[Container, str, str, StoredFile], None]
) -> Json:
    container, path, identifier = call.container_to_write(), call.params["attribute"], call.params["uploadId"]
    upload = call.server.uploads.find(identifier, container, path)
    stored = call.server.uploads.finish(identifier, upload)
    refusal = _refusal(call, container, kind)
    if refusal is None:
        keep(container, path, upload.name, stored)
    else:
        stored.discard()
    return _errors(refusal)


# -- downloads --


class Download(FileResponse):
    """A file with its name as the header's last word, in raw UTF-8."""

    chunk_size = BLOCK

    def __init__(self, path: str, name: str, media_type: str) -> None:
        super().__init__(path, media_type=media_type)
        printable = "".join("_" if letter in '"\\' or ord(letter) < 32 else letter for letter in name)
        disposition = f'attachment; filename="{printable}"'.encode()
        self.raw_headers.append((b"content-disposition", disposition))


def _download(stored: StoredFile, name: str, media_type: str = "application/octet-stream") -> Response:
    if stored.lost:
        raise NotFoundError(f"The bytes of '{name}' are lost")
    return Download(str(stored.path), name, media_type)


@handles("downloadAttribute")
def download_attribute(call: Call) -> Response:
    container, path, inside = call.container(), call.params["attribute"], call.params["path"]
    attribute = container.attribute(path)
    if isinstance(attribute, File) and inside is None:
        return _download(attribute.stored, attribute.name)
    if isinstance(attribute, FileSet) and inside is not None:
        stored = attribute.files.get(inside.strip("/"))
        if stored is not None:
            return _download(stored, posixpath.basename(inside))
    raise NotFoundError(f"'{container.sys_id}' has no file '{path}'" + (f" with '{inside}'" if inside else ""))


@handles("getImageSeriesValue")
def get_image_series_value(call: Call) -> Response:
    series, index = field_of(call, ImageSeries), call.params["index"]
    if not 0 <= index < len(series):
        raise NotFoundError(f"The series has no image {index}")
    image = series.values[index]
    extension = image.content_type.rpartition("/")[2]
    return _download(image.stored, f"{index}.{extension}", image.content_type)


# -- file sets --


@handles("lsFileSetAttribute")
def ls_file_set_attribute(call: Call) -> list[Json]:
    """What lies directly in one folder of the set."""
    file_set, folder = field_of(call, FileSet), call.params["path"].strip("/")
    prefix = "" if folder in ("", ".") else f"{folder}/"
    files: dict[str, StoredFile] = {}
    folders: dict[str, int] = {}
    now = call.store.now()
    for path, stored in file_set.files.items():
        if path.startswith(prefix):
            name, slash, _ = path[len(prefix) :].partition("/")
            if slash:
                folders[name] = max(folders.get(name, 0), stored.modified_millis)
            else:
                files[name] = stored
    for path in file_set.directories:
        if path.startswith(prefix):
            folders.setdefault(path[len(prefix) :].partition("/")[0], now)
    if prefix and not files and not folders and folder not in file_set.directories:
        raise NotFoundError(f"The set has no folder '{folder}'")
    entries: list[Json] = [
        {"name": name, "fileType": "directory", "size": 0, "mtime": date_time(folders[name])} for name in folders
    ]
    entries += [
        {"name": name, "fileType": "file", "size": stored.size, "mtime": date_time(stored.modified_millis)}
        for name, stored in files.items()
    ]
    return sorted(entries, key=lambda entry: str(entry["name"]))


@handles("prepareForDownloadFileSetAttributeZip")
def prepare_for_download_file_set_attribute_zip(call: Call) -> Json:
    file_set = field_of(call, FileSet)
    if any(stored.lost for stored in file_set.files.values()):
        raise NotFoundError(f"Bytes of '{call.params['attribute']}' are lost")
    archive = call.server.archives.prepare(posixpath.basename(call.params["attribute"]) + ".zip", file_set)
    return {"id": archive.id}


@handles("getDownloadPrepareRequest")
def get_download_prepare_request(call: Call) -> Json:
    archive = call.server.archives.find(call.params["id"])
    if not archive.ready:
        return {"id": archive.id}
    return {"id": archive.id, "downloadUrl": f"{call.base_url}{call.server.paths['download']}?id={archive.id}"}


@handles("download")
def download(call: Call) -> Response:
    archive = call.server.archives.find(call.params["id"])
    if not archive.ready:
        raise ApiError(404, "The archive is not ready yet")
    return Download(str(archive.path), archive.name, "application/zip")
