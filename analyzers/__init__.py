"""One measure a file, and the table of them."""
