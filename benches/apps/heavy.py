"""An application with the weight of a usual one, for the figures of memory."""

import asyncio  # noqa: F401
import decimal  # noqa: F401
import email.message  # noqa: F401
import http.client  # noqa: F401
import sqlite3  # noqa: F401
import xml.etree.ElementTree  # noqa: F401

from flask import Flask

hello = Flask(__name__)
# What a usual application has in translations, settings, models and templates.
TABLE = {f"key {number}": [number, str(number), {"number": number}] for number in range(40_000)}


@hello.get("/")
def index():
    return "Hello, World!"
