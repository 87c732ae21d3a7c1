"""What the dashboard shows: aggregates of the log, kept by a thread beside the service.

`aggregates` is their database, `follower` fills it from the store, `views` answers from it. All of
it is derived: deleting `dashboard.db` loses the latencies of the past and nothing else.
"""
