"""The command line: `safemargin`. May use every room; no room uses it."""
