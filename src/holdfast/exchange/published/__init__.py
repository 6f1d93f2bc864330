"""Reads the published runs of arXiv 2603.02229 into a store.

reader.py        the import itself: one transaction, files in any order
names.py         the strict grammar of directory and file names, where the source keeps its metadata
files.py         the archive as a stream, lines, strict JSON
text_writer.py   compression beside the reading, with a dictionary trained on the first texts
"""

from holdfast.exchange.published.reader import ImportProgress, ImportSummary, import_into, import_published

__all__ = ["ImportProgress", "ImportSummary", "import_into", "import_published"]
