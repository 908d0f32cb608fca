# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what: peers of the Unix socket, tokens, client certificates; by curl, openssl and Python's own client."""

import contextlib
import grp
import http.client
import json
import os
import re
import signal
import ssl
import subprocess

from daemon import Daemon, require, wait_for

ROLES = ["viewer", "operator", "administrator"]


@contextlib.contextmanager
def https_daemon(context, **config):
    with Daemon(context["build"], start=False) as d:
        d.configure(https={"listen": "127.0.0.1:0", **config.pop("https", {})}, **config)
        d.start()
        yield d


def where(d):
    """Address and fingerprint of its HTTPS."""
    https = d.ok("GET", "/v1/host")["https"]
    return https["listen"], https["fingerprint"]


def curl(*arguments, body=None, status=None):
    """Status of the answer, and the answer."""
    r = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *arguments, *(["-d", json.dumps(body)] if body is not None else [])],
                       capture_output=True, text=True, timeout=60)
    require(r.returncode == 0, f"curl: {r.stderr}")
    text, code = r.stdout.rsplit("\n", 1)
    require(status is None or int(code) == status, f"curl {arguments[-1]}: {code} {text}")
    return int(code), json.loads(text) if text.startswith(("{", "[")) else text


def code_of(answer):
    return answer["error"]["code"]


def token_file(d, name, *options):
    path = os.path.join(d.directory, f"token-{name}")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
        f.write(d.cli("host", "token", "create", name, *options))
    return path


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read().strip()


def test_manage_https_with_a_token(context):
    with https_daemon(context) as d:
        address, pin = where(d)
        url = f"https://{address}"
        path = token_file(d, "ci", "--role", "operator", "--expires", "1h")
        text = read(path)
        require(re.fullmatch("bulkhead_[0-9a-f]{64}", text), f"a token: {text}")
        with open(os.path.join(d.state, "host.db"), "rb") as f:
            require(text.encode() not in f.read(), "it is kept as a hash only")
        require(os.stat(os.path.join(d.state, "host.db")).st_mode & 0o077 == 0 and
                os.stat(os.path.join(d.state, "tls-key.pem")).st_mode & 0o077 == 0, "nobody else reads database and key")
        # curl, by the key's fingerprint, and by the certificate as authority.
        bearer = ["-H", f"Authorization: Bearer {text}"]
        _, host = curl("-k", "--pinnedpubkey", pin, *bearer, f"{url}/v1/host", status=200)
        require(host["you"] == {"name": "token ci", "role": "operator"}, f"you: {host}")
        curl("--cacert", os.path.join(d.state, "tls-certificate.pem"), *bearer, f"{url}/v1/vms", status=200)
        # Without, with a wrong one, with another scheme.
        for header, code in (([], "no-token"), (["-H", "Authorization: Bearer bulkhead_0"], "unknown-token"),
                             (["-u", "a:b"], "unknown-token")):
            _, answer = curl("-k", *header, f"{url}/v1/host", status=401)
            require(code_of(answer) == code, f"{header}: {answer}")
        _, answer = curl("-k", f"{url}/v1/nothing", status=401)
        # The command line.
        remote = ["--host", url, "--token-file", path, "--fingerprint", pin]
        require("operator" in d.cli(*remote, "host", "show"), "it says who one is")
        d.make("web")
        d.cli(*remote, "vm", "start", "web")
        require(d.state_of("web") == "running", "an operator starts machines")
        require("for the role administrator" in d.cli(*remote, "vm", "delete", "web", "--force", status=1), "and deletes none")
        require("own host" in d.cli(*remote, "vm", "console", "web", status=1), "a console is not at hand")
        require("web" in d.cli("vm", "list", environment={"BULKHEAD_HOST": url, "BULKHEAD_TOKEN_FILE": path, "BULKHEAD_FINGERPRINT": pin}),
                "the environment says it too")
        wrong = pin[:-5] + ("AAAA=" if pin[-5:] != "AAAA=" else "BBBB=")
        require("another key" in d.cli("--host", url, "--token-file", path, "--fingerprint", wrong, "vm", "list", status=1), "a wrong pin")
        require("vouches" in d.cli("--host", url, "--token-file", path, "vm", "list", status=1), "nobody vouches for it")
        d.cli("--host", url, "--token-file", path, "--ca-file", os.path.join(d.state, "tls-certificate.pem"), "vm", "list")
        require("https://" in d.cli("--host", "http://x", "vm", "list", status=1), "nothing but https")
        os.chmod(path, 0o644)
        require("chmod 600" in d.cli(*remote, "vm", "list", status=1), "a token that others read")
        os.chmod(path, 0o600)
        # Revoked it is nothing; a new one of the name may be made.
        require(re.search("ci +operator", d.cli("host", "token", "list")), "it is listed")
        require("already" in d.cli("host", "token", "create", "ci", status=1), "no two of a name")
        d.cli("host", "token", "revoke", "ci")
        _, answer = curl("-k", *bearer, f"{url}/v1/host", status=401)
        require(code_of(answer) == "unknown-token", f"revoked: {answer}")
        require(json.loads(d.cli(*remote, "vm", "list", "--json", status=1))["error"]["code"] == "unknown-token", "the same by the command line")
        d.refused(404, "not-found", "DELETE", "/v1/tokens/ci")
        # The key is kept: it is the same host after a restart.
        d.stop()
        d.start()
        require(where(d)[1] == pin, "another key after a restart")


def test_manage_https_is_tls_1_3(context):
    with https_daemon(context) as d:
        address, _ = where(d)
        def handshake(*options):
            r = subprocess.run(["openssl", "s_client", "-connect", address, *options], input="", capture_output=True, text=True, timeout=30)
            return r.stdout + r.stderr
        require("New, TLSv1.3" in handshake(), "TLS 1.3")
        require("New, (NONE)" in handshake("-tls1_2"), "TLS 1.2 is refused")
        host, port = address.rsplit(":", 1)
        bad = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bad.check_hostname, bad.verify_mode, bad.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
        try:
            http.client.HTTPSConnection(host, int(port), context=bad, timeout=30).request("GET", "/v1/host")
            require(False, "Python's client came in by TLS 1.2")
        except ssl.SSLError:
            pass
        good = ssl.create_default_context(cafile=os.path.join(d.state, "tls-certificate.pem"))
        connection = http.client.HTTPSConnection("localhost", int(port), context=good, timeout=30)
        connection.request("GET", "/v1/host")
        answer = connection.getresponse()
        require(answer.status == 401 and answer.getheader("WWW-Authenticate") == "Bearer", f"{answer.status}")
        connection.close()


def test_manage_token_expires(context):
    with https_daemon(context) as d:
        address, _ = where(d)
        path = token_file(d, "short", "--expires", "2s", "--role", "administrator")
        arguments = ["-k", "-H", f"Authorization: Bearer {read(path)}", f"https://{address}/v1/host"]
        curl(*arguments, status=200)
        wait_for(lambda: curl(*arguments)[0] == 401, "the token to expire", 20)
        _, answer = curl(*arguments, status=401)
        require(code_of(answer) == "expired-token" and "short" in answer["error"]["message"], f"expired: {answer}")
        require("over" in d.cli("host", "token", "list"), "it is shown as over")


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def authority(directory, name):
    key, certificate = (os.path.join(directory, f"{name}.{kind}") for kind in ("key", "pem"))
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", key,
            "-out", certificate, "-days", "30")
    return key, certificate


def client(directory, by, subject, days="30", more=""):
    """A client's certificate and key, signed by an authority."""
    name = os.path.join(directory, re.sub("[^a-z]", "", subject) + days + re.sub("[^a-z]", "", more) + os.path.basename(by[1]))
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-keyout", name + ".key", "-out", name + ".csr")
    with open(name + ".ext", "w", encoding="utf-8") as f:
        f.write("extendedKeyUsage=clientAuth\n" + more)
    openssl("x509", "-req", "-in", name + ".csr", "-CA", by[1], "-CAkey", by[0], "-CAcreateserial", "-out", name + ".crt", "-days", days,
            "-extfile", name + ".ext")
    return ["--cert", name + ".crt", "--key", name + ".key"]


def test_manage_client_certificates(context):
    with Daemon(context["build"], start=False) as d:
        ours, theirs = authority(d.directory, "ours"), authority(d.directory, "theirs")
        d.configure(https={"listen": "127.0.0.1:0", "client_authority": ours[1]},
                    certificates=[{"name": "alice", "role": "operator"}, {"name": "ops@example.org", "role": "administrator"}])
        d.start()
        url = f"https://{where(d)[0]}/v1/host"
        alice = client(d.directory, ours, "/CN=alice")
        for options, role in ((alice, "operator"), (client(d.directory, ours, "/CN=x", more="subjectAltName=email:ops@example.org\n"), "administrator")):
            _, host = curl("-k", *options, url, status=200)
            require(host["you"]["role"] == role, f"{options}: {host}")
        _, answer = curl("-k", *client(d.directory, ours, "/CN=mallory"), url, status=403)
        require(code_of(answer) == "denied" and "mallory" in answer["error"]["message"], f"no role: {answer}")
        for options in (client(d.directory, theirs, "/CN=alice"), client(d.directory, ours, "/CN=alice", days="-1")):
            _, answer = curl("-k", *options, url, status=401)
            require(code_of(answer) == "unknown-token" and "certificate" in answer["error"]["message"], f"refused: {answer}")
        _, answer = curl("-k", url, status=401)
        require(code_of(answer) == "no-token", f"none: {answer}")
        # Withdrawn: out of host.json, and that is read anew; a file that cannot be read changes nothing.
        mallory = client(d.directory, ours, "/CN=mallory")
        with open(os.path.join(d.directory, "host.json"), encoding="utf-8") as f:
            whole = f.read()
        d.configure(https={"listen": "127.0.0.1:0", "client_authority": ours[1]}, certificates=[{"name": "mallory", "role": "viewer"}])
        require("is read anew" in d.cli("host", "reload"), "by the command line")
        _, answer = curl("-k", *alice, url, status=403)
        require(code_of(answer) == "denied" and "alice" in answer["error"]["message"], f"withdrawn: {answer}")
        require(curl("-k", *mallory, url, status=200)[1]["you"]["role"] == "viewer", "given")
        d.configure(https={"listen": "127.0.0.1:1"}, certificates=[])
        require(d.ok("POST", "/v1/host/reload") == {"restart": ["https"]}, "what waits for a restart")
        curl("-k", *mallory, url, status=403)
        with open(os.path.join(d.directory, "host.json"), "w", encoding="utf-8") as f:
            f.write(whole[:-1])
        d.refused(422, "damaged", "POST", "/v1/host/reload", None, "host.json, line 1")
        d.configure(certificates=[], groups=[{"name": "no-such-group", "role": "viewer"}])
        d.refused(404, "not-found", "POST", "/v1/host/reload", None, "no-such-group")
        with open(os.path.join(d.directory, "host.json"), "w", encoding="utf-8") as f:
            f.write(whole)
        d.process.send_signal(signal.SIGHUP)
        wait_for(lambda: curl("-k", *alice, url)[0] == 200, "the signal to be taken")
        # The command line, and a token beside the certificate: the token counts.
        remote = ["--host", url.removesuffix("/v1/host"), "--fingerprint", where(d)[1], "--certificate", alice[1], "--key", alice[3]]
        require("certificate alice" in d.cli(*remote, "host", "show"), "by the command line")
        token = d.ok("POST", "/v1/tokens", {"name": "v", "role": "viewer"})["token"]
        _, host = curl("-k", *alice, "-H", f"Authorization: Bearer {token}", url, status=200)
        require(host["you"]["role"] == "viewer", f"both: {host}")


def revocation_list(directory, by, *certificates):
    """An authority's list of what it has withdrawn."""
    config, path = os.path.join(directory, "ca.conf"), os.path.join(directory, f"list{len(certificates)}{os.path.basename(by[1])}")
    for name, text in (("index", ""), ("number", "01\n"), ("ca.conf", f"[ca]\ndefault_ca = x\n[x]\ndatabase = {directory}/index\ncrlnumber = {directory}/number\n"
                                                                     f"default_md = sha256\ndefault_crl_days = 30\ncertificate = {by[1]}\nprivate_key = {by[0]}\n")):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
            f.write(text)
    for certificate in certificates:
        openssl("ca", "-config", config, "-revoke", certificate)
    openssl("ca", "-config", config, "-gencrl", "-out", path)
    return path


def test_manage_revoked_certificates(context):
    with Daemon(context["build"], start=False) as d:
        ours, theirs = authority(d.directory, "ours"), authority(d.directory, "theirs")
        https, names = {"listen": "127.0.0.1:0", "client_authority": ours[1]}, [{"name": n, "role": "viewer"} for n in ("alice", "bob")]
        alice, bob = (client(d.directory, ours, f"/CN={name}") for name in ("alice", "bob"))
        d.configure(https=https, certificates=names, revoked=revocation_list(d.directory, ours))
        d.start()
        url = f"https://{where(d)[0]}/v1/host"
        for options in (alice, bob):
            curl("-k", *options, url, status=200)
        d.configure(https=https, certificates=names, revoked=revocation_list(d.directory, ours, bob[1]))
        require(d.ok("POST", "/v1/host/reload") == {"restart": []}, "it needs no restart")
        _, answer = curl("-k", *bob, url, status=401)
        require(code_of(answer) == "unknown-token" and "revoked" in answer["error"]["message"], f"revoked: {answer}")
        curl("-k", *alice, url, status=200)
        # A list of somebody else, or none at all, is no list, and what holds goes on to hold.
        for wrong, said in ((revocation_list(d.directory, theirs), "not signed by"), (ours[1], "no revocation list")):
            d.configure(https=https, certificates=names, revoked=wrong)
            d.refused(422, "damaged", "POST", "/v1/host/reload", None, said)
        d.configure(https=https, certificates=names, revoked="/nowhere/list")
        d.refused(404, "not-found", "POST", "/v1/host/reload", None, "/nowhere/list")
        curl("-k", *bob, url, status=401)
        d.configure(https={"listen": "127.0.0.1:0"}, revoked="/nowhere/list")
        r = subprocess.run(d.command(), capture_output=True, text=True, timeout=30)
        require(r.returncode == 1, f"{r}")


def test_manage_given_certificate(context):
    with Daemon(context["build"], start=False) as d:
        key, certificate = authority(d.directory, "host.example.org")
        d.configure(https={"listen": "[::1]:0", "certificate": certificate, "key": key})
        d.start()
        port = where(d)[0].rsplit(":", 1)[1]
        curl("--cacert", certificate, "--connect-to", f"host.example.org:443:[::1]:{port}", "https://host.example.org/v1/host", status=401)
        d.stop()
        for config, said in (({"listen": "127.0.0.1:0", "certificate": certificate}, "belong together"),
                             ({"listen": "127.0.0.1:0", "certificate": certificate, "key": "/nowhere"}, "/nowhere"),
                             ({"listen": "127.0.0.1:0", "certificate": key, "key": key}, "no certificate"),
                             ({"listen": "127.0.0.1:0", "certificate": certificate, "key": authority(d.directory, "x")[0]}, "go together"),
                             ({"listen": "localhost:0"}, "https.listen"), ({"listen": "1.2.3.4:1"}, "https.listen"), ({"listen": "x"}, "https.listen"),
                             ({"listen": "127.0.0.1:0", "certificat": "/x"}, "https.certificat")):
            d.configure(https=config)
            r = subprocess.run(d.command(), capture_output=True, text=True, timeout=30)
            require(r.returncode == 1 and said in r.stderr, f"{config}: {r.returncode} {r.stderr}")
        d.configure(groups=[{"name": "no-such-group", "role": "viewer"}])
        r = subprocess.run(d.command(), capture_output=True, text=True, timeout=30)
        require(r.returncode == 1 and "no-such-group" in r.stderr, f"a group: {r.stderr}")


ASK = """
import http.client, json, socket, sys
class C(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
c = C("x")
c.request("GET", "/v1/host")
a = c.getresponse()
print(json.dumps([a.status, json.loads(a.read())]))
"""


def ask_as(d, uid, gid, groups):
    r = subprocess.run(["/usr/bin/python3", "-c", ASK, d.socket], user=uid, group=gid, extra_groups=groups, capture_output=True, text=True, timeout=60)
    return json.loads(r.stdout) if r.returncode == 0 else [0, r.stderr]


def test_manage_peers_of_the_socket(context):
    if os.getuid():
        raise context["skip"]("only root can be somebody else")
    other = grp.getgrnam("nogroup").gr_gid
    daemon, games = grp.getgrnam("daemon").gr_gid, grp.getgrnam("games").gr_gid
    with Daemon(context["build"], start=False) as d:
        os.chmod(d.directory, 0o755)
        d.start()
        require(ask_as(d, 65534, other, [])[0] == 0, "without groups nobody else can connect")
        require(d.ok("GET", "/v1/host")["you"] == {"name": "user 0", "role": "administrator"}, "root")
        d.stop()
        d.configure(groups=[{"name": "daemon", "role": "operator"}, {"name": "games", "role": "viewer"}])
        d.start()
        status, answer = ask_as(d, 65534, other, [])
        require(status == 403 and code_of(answer) == "denied" and "user 65534" in answer["error"]["message"], f"nobody: {status} {answer}")
        for gid, groups, role in ((games, [], "viewer"), (other, [games], "viewer"), (other, [games, daemon], "operator"),
                                  (other, list(range(5000, 5100)) + [daemon], "operator")):
            status, answer = ask_as(d, 65534, gid, groups)
            require(status == 200 and answer["you"]["role"] == role, f"{gid} {groups}: {status} {answer}")


def test_manage_every_route_refuses_lesser_roles(context):
    """All routes of the document, by each role: what it says is what happens."""
    with https_daemon(context) as d:
        tokens = {role: d.ok("POST", "/v1/tokens", {"name": role, "role": role})["token"] for role in ROLES}
        document = d.ok("GET", "/v1/openapi.json")
        asked = 0
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                least = operation["x-least-role"]
                for role in ROLES:
                    # A stream has no end, so of that only the head. Names that are not there: who may ask is told so, or that the body is wrong.
                    status, answer = d.call("HEAD" if path.endswith("/stream") else method.upper(), re.sub("{[a-z]+}", "999999", path), None, {"Authorization": f"Bearer {tokens[role]}"})
                    denied = status == 403
                    require(denied == (ROLES.index(role) < ROLES.index(least)), f"{method} {path} by {role}, least is {least}: {status} {answer}")
                    require(not denied or answer is None or (code_of(answer) == "denied" and f"role {least}" in answer["error"]["message"]), f"{answer}")
                    asked += 1
        require(asked >= 75, f"only {asked} requests were made")
        require({o["x-least-role"] for m in document["paths"].values() for o in m.values()} == set(ROLES), "each role has routes")
