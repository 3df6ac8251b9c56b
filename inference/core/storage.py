"""What answers are made of, declared so that files can hold it."""

from cai.inference.core.status import Status, Target
from cai.models.common.storage import StorageError, can_store, load, save, storable, stored_kind

__all__ = ["StorageError", "can_store", "load", "save", "storable", "stored_kind"]

storable("status")(Status)
storable("target")(Target)
