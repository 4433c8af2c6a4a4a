"""Move bytes between a pipe and a file past the page cache, and prove that it was so."""
