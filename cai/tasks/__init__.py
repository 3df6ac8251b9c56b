"""Many tasks: in this process, in others, or on a cluster, with the same bits; and a folder that keeps what is done."""

from cai.tasks.dask_cluster import dask_map

__all__ = ["dask_map"]
