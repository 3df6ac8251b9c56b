"""Speed and memory of `cai` beside other libraries on the same jobs; `make bench`, or `python -m benchmarks --help`."""
