"""The dashboard's data: aggregates of the store, maintained by a thread beside the service.

`aggregates` counts, `follower` feeds it from the store, `views` answers from the counts. All of it
is derived: deleting `dashboard.db` loses the latencies of the past and nothing else.
"""
