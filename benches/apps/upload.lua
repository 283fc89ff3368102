-- A form of 4 KiB.
wrk.method = "POST"
wrk.body = string.rep("x", 4096)
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
