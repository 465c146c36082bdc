"""The peer of extract_throughput: datatrove's WarcReader and Trafilatura extractor, run in an environment of its own.

Prints one JSON line: pages read, pages with text, CPU seconds (this process and its children).
"""

import json
import resource
import sys

from datatrove.data import Document
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader

folder, pattern = sys.argv[1], sys.argv[2]
pages = texts = 0


def counted(documents):
    global pages
    for document in documents:
        pages += 1
        yield document


def cpu():
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


# imports and one page's worth of lazy ones are not the work
list(Trafilatura(favour_precision=True).run(iter([Document(text="<html><body><p>A page.</p></body></html>", id="0")])))
started = cpu()
reader = WarcReader(folder, glob_pattern=pattern)
for _document in Trafilatura(favour_precision=True).run(counted(reader.run())):
    texts += 1
print(json.dumps({"pages": pages, "texts": texts, "cpu_s": cpu() - started}))
