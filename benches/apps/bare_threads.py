"""No server at all: bare_threads.py SECONDS THREADS: that many Python threads sleep 10 ms again and again; how often in all?

The most that a server with so many threads can reach with an application that waits 10 ms.
"""

import sys
import threading
import time


def main(seconds, threads):
    counts = [0] * threads
    end = time.monotonic() + seconds

    def sleep(own):
        while time.monotonic() < end:
            time.sleep(0.010)
            counts[own] += 1

    running = [threading.Thread(target=sleep, args=(own,)) for own in range(threads)]
    begun = time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(sum(counts), time.monotonic() - begun)


main(float(sys.argv[1]), int(sys.argv[2]))
