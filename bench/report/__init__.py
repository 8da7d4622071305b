"""One self-contained HTML page from run records: data in, bytes out, nothing measured here."""
