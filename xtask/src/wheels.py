"""Finds, fetches and unpacks wheels for `cargo xtask setup`, with the standard library and the user's own pip.

locate REPORT PYTHON PLATFORMS REQUIREMENT...   prints FILE<tab>ADDRESS for each wheel that pip would install
fetch ADDRESS PART BYTES                        continues PART, prints its size as it grows
unpack WHEEL DIRECTORY PATTERN...               prints the name of each member that it wrote

Exit codes: 1 failed; 3 this pip is too old to be asked; 4 the server refused; 5 the network failed.
"""

import ast
import fnmatch
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

CHUNK = 1 << 18
TIMEOUT = 60
PATIENCE = 5
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class Stop(Exception):
    """Ends the program with a message and an exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def locate(report, python, platforms, *requirements):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--target", report + ".target"]
    for platform in platforms.split(","):
        command += ["--platform", platform]
    outcome = subprocess.run([*command, "--report", report, *requirements], stderr=subprocess.PIPE, text=True)
    if outcome.returncode != 0:
        raise Stop(3 if "no such option" in outcome.stderr else 1, outcome.stderr.strip())
    with open(report, encoding="utf-8") as file:
        installs = json.load(file)["install"]
    os.remove(report)
    for install in installs:
        address = install["download_info"]["url"]
        name = urllib.parse.unquote(urllib.parse.urlsplit(address).path.rsplit("/", 1)[-1])
        print(name, address, sep="\t")


def pip_settings():
    """What the user configured pip with; the environment comes last and wins."""
    settings = {}
    listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True).stdout
    for line in listing.splitlines():
        match = re.fullmatch(r"(?:global|install|:env:)\.(cert|proxy)=('.*')", line)
        if match:
            settings[match[1]] = ast.literal_eval(match[2])
    return settings


def opener():
    settings = pip_settings()
    context = ssl.create_default_context()
    bundle = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    elif not context.cert_store_stats()["x509_ca"] and "SSL_CERT_DIR" not in os.environ:
        from pip._vendor import certifi

        context.load_verify_locations(cafile=certifi.where())
    handlers = [urllib.request.HTTPSHandler(context=context)]
    if settings.get("proxy"):
        handlers.append(urllib.request.ProxyHandler({scheme: settings["proxy"] for scheme in ("http", "https")}))
    return urllib.request.build_opener(*handlers)


def size_of(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def fetch(address, part, size):
    size = int(size)
    connect = opener()
    failures = 0
    while (have := size_of(part)) < size:
        try:
            receive(connect, address, part, have, size)
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            if error.code not in TRANSIENT:
                raise Stop(4, f"the server says {error.code} {error.reason}") from None
            reason = f"{error.code} {error.reason}"
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise Stop(4, cause) from None
            reason = cause or type(error).__name__
        if size_of(part) > have:
            failures = 0
        elif size_of(part) < size:
            failures += 1
            if failures == PATIENCE:
                raise Stop(5, reason)
            time.sleep(2 ** (failures - 1))


def receive(connect, address, part, have, size):
    """Appends to the part if the server can continue, else begins again."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with connect.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            mode = "ab"
        else:
            have, mode = 0, "wb"
        length = answer.headers.get("Content-Length")
        if length is not None and have + int(length) != size:
            raise Stop(4, f"the server's file has {have + int(length)} bytes, the lock file says {size}")
        shown = 0.0
        with open(part, mode) as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if time.monotonic() - shown > 0.1:
                    shown = time.monotonic()
                    print(have, flush=True)
    print(have, flush=True)


def unpack(wheel, directory, *patterns):
    """A pattern that begins with `!` leaves members out, also such as another pattern matches."""
    leave = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    take = [pattern for pattern in patterns if not pattern.startswith("!")]

    def wanted(name):
        def among(some):
            return any(fnmatch.fnmatchcase(name, pattern) for pattern in some)

        return not name.endswith("/") and among(take) and not among(leave)

    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if wanted(member.filename):
                archive.extract(member, directory)
                print(member.filename, flush=True)


def main(task, *arguments):
    # A reader that has gone away ends this program, and so does Ctrl-C, both without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        {"locate": locate, "fetch": fetch, "unpack": unpack}[task](*arguments)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except (OSError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
