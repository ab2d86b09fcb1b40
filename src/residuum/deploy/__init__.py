"""Out of the laboratory: trained networks at work on pictures that nobody has labelled."""
