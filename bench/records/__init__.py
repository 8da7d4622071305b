"""What was measured: frozen records, the migrations of their schema, and their files on disk."""
