"""The end of what a workspace has paid for: uploads and operations are refused after so many."""

from __future__ import annotations

from dataclasses import dataclass

from .web import ApiError, Call

UPLOADS = {
    "fileAtomMultipartUploadPart",
    "fileAtomMultipartUploadStart",
    "fileAtomUpload",
    "fileSetFileMultipartUploadPart",
    "fileSetFileMultipartUploadStart",
    "fileSetFileUpload",
    "uploadAttribute",
    "uploadFileSetAttributeChunk",
    "uploadFileSetAttributeTar",
}
"""Without the ends of uploads in parts: their bytes have been counted already."""
STATUSES = (402, 422)


@dataclass
class Limits:
    """What is left; None: no end."""

    bytes_left: int | None = None
    operations_left: int | None = None
    status: int = 402

    def order(self, bytes_left: int | None, operations_left: int | None, status: int) -> None:
        if status not in STATUSES:
            raise ValueError(f"{status} is none of {STATUSES}")
        self.bytes_left, self.operations_left, self.status = bytes_left, operations_left, status

    def clear(self) -> None:
        self.bytes_left = self.operations_left = None

    def check(self, call: Call) -> None:
        """Refuse a request for which not enough is left, as a whole. Count one that may pass."""
        if self.bytes_left is not None and call.operation.operation_id in UPLOADS:
            self.bytes_left = self._left(self.bytes_left, int(call.request.headers.get("content-length", 0)))
        if self.operations_left is not None and call.operation.operation_id == "executeOperations":
            self.operations_left = self._left(self.operations_left, len(call.body))

    def _left(self, left: int, wanted: int) -> int:
        if not left or wanted > left:
            raise ApiError(self.status, "The workspace has reached its storage limit")
        return left - wanted
