"""A run on disk: the only reader and writer of its artifacts.

store.py        cases, checkpoints, trajectories, scores, pairs: written in transactions, read by id
tables.py       scores and episodes as columns, without texts: what statistics compute on
steplog.py      which steps are under way, done or failed, and which batches are committed
codec.py        records to bytes and back
database.py     opening, locking, the schema, and copies of a run's rows
seals.py        digests of rows, by batch, written with them
checking.py     a run held against its digests; links in it refused
copying.py      a run copied, whole or in part
joining.py      one run's rows put together from several runs, and where two of them differ
joined.py       what a joined run notes of those
weights.py      directories of weights under the digest of their files, unfinished work, and the cache of bases
"""

from holdfast.store.database import DATABASE
from holdfast.store.store import Store

__all__ = ["DATABASE", "Store"]
