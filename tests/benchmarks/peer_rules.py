"""The peer of rules_throughput: datatrove's Gopher and FineWeb filters on a JSON Lines file of texts.

Every filter sees every text, as ours scores what it keeps. Prints one JSON line: documents, CPU seconds.
"""

import json
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

with open(sys.argv[1], encoding="utf-8") as lines:
    documents = [Document(text=json.loads(line)["text"], id=str(place)) for place, line in enumerate(lines)]
filters = [GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()]
for one in filters:  # the tokenizer loads with the first text
    one.filter(documents[0])
started = time.process_time()
for document in documents:
    for one in filters:
        one.filter(document)
print(json.dumps({"documents": len(documents), "cpu_s": time.process_time() - started}))
