"""Say for each kind of rule which elements it is about, what it may match and what it may set."""
