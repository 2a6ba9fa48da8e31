"""The load test: drives any OpenAI-compatible endpoint, measures, reports, compares.

One way through it: a workload (`workload`) gives conversations, a load (`load`) says when they
begin, `drive` sends them with `client` and gets a `Record` for each request, `figures` makes
numbers of the records, `store` keeps them, `report` and `compare` show them. docs/load-tests.md
defines each figure.
"""
