"""Finds, fetches and unpacks wheels for `cargo xtask setup`, with the standard library and the user's own pip.

fetch FILE REQUIREMENT PYTHON PLATFORMS PART BYTES
    Finds FILE as the user's pip does for that Python and these platforms, separated by commas, and continues PART. Prints its
    size as it grows.
unpack WHEEL DIRECTORY PATTERN...
    Prints the name of each member that it wrote.

Exit codes: 1 failed; 3 pip finds nothing; 4 better left to pip; 5 the network failed.
"""

import ast
import fnmatch
import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

NOT_FOUND = 3
LEAVE_TO_PIP = 4
NETWORK_FAILED = 5

CHUNK = 1 << 18
TIMEOUT = 60
# Failures in a row without a byte between them.
PATIENCE = 5
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class Stop(Exception):
    """Ends the program with a message and an exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def find(file, requirement, python, platforms, scratch):
    """The address of the file, from the links that pip tells of while it looks for the best one.

    Pip is stopped before it downloads. Its report of a dry run would have the address too, but to write that, older versions
    download the whole file, as newer ones do from an index that does not serve metadata.
    """
    command = [sys.executable, "-m", "pip", "download", "-vv", "--no-deps", "--only-binary=:all:", "--dest", scratch]
    command += ["--implementation", "cp", "--python-version", python, requirement]
    for platform in filter(None, platforms.split(",")):
        command += ["--platform", platform]
    environment = {**os.environ, "TMPDIR": scratch, "PIP_QUIET": "0"}
    complaints = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as pip:
        for line in pip.stdout:
            link = re.match(r"\s*Found link (\S+?),?\s", line)
            if link:
                address = urllib.parse.urldefrag(link[1]).url
                parts = urllib.parse.urlsplit(address)
                if urllib.parse.unquote(parts.path).endswith("/" + file):
                    pip.kill()
                    if parts.username is not None:
                        raise Stop(LEAVE_TO_PIP, "the index wants a password")
                    return address
            elif re.match(r"\s*(Collecting|Processing|Downloading|Using cached) ", line):
                pip.kill()
                raise Stop(LEAVE_TO_PIP, "pip does not say where the file is")
            elif re.match(r"\s*(WARNING|ERROR)", line):
                complaints.append(line)
    # Before its last words pip repeats itself with each attempt.
    raise Stop(NOT_FOUND, "".join(complaints[-4:]))


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


def fetch(file, requirement, python, platforms, part, size):
    size = int(size)
    scratch = part + ".pip"
    os.makedirs(scratch, exist_ok=True)
    try:
        address = find(file, requirement, python, platforms, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    connect = opener()
    failures = 0
    while (have := size_of(part)) < size:
        try:
            receive(connect, address, part, have, size)
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            if error.code not in TRANSIENT:
                raise Stop(LEAVE_TO_PIP, f"the server says {error.code} {error.reason}") from None
            reason = f"{error.code} {error.reason}"
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise Stop(LEAVE_TO_PIP, cause) from None
            reason = cause or type(error).__name__
        if size_of(part) > have:
            failures = 0
        elif size_of(part) < size:
            failures += 1
            if failures == PATIENCE:
                raise Stop(NETWORK_FAILED, reason)
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
            raise Stop(LEAVE_TO_PIP, f"the server's file has {have + int(length)} bytes, the lock file says {size}")
        print(have, flush=True)
        shown = time.monotonic()
        with open(part, mode) as file:
            while chunk := answer.read1(CHUNK):
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
        {"fetch": fetch, "unpack": unpack}[task](*arguments)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except (OSError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
