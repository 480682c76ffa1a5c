"""PipeRAG: retrieval-augmented generation whose retrieval runs beside decoding."""
