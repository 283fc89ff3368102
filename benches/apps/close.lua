-- As a proxy without keep-alive towards its upstream does it, nginx by default.
wrk.headers["Connection"] = "close"
