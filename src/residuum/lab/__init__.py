"""The laboratory: the papers' experiments, one command each, with the paper's number beside the measured one.

An experiment (`experiments/`) measures on a bench (`bench.py`), which trains nets, keeps every row that was measured
and goes on where it was stopped. What the rows mean (`findings.py`) is read from them alone, so that the report, the
documentation's page and README's table say the same.
"""
