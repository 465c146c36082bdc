"""Golden pages and their scorer; see README.md. Imports nothing of the engine, so that any extractor can be scored."""
