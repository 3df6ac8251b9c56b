"""Any Pyro program of discrete sites: guides, enumerated bounds, SVI, enumeration."""
