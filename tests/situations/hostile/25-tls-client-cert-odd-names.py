"""Client certificates that a trusted authority has signed, with names that OpenSSL or Python cannot show (BMPString with a
lone surrogate, UTF8String that is none, embedded NUL, thousands of names): does the gateway live?"""

import time
from lib import *

D = Path(tempfile.mkdtemp(prefix="cc-"))
CERT, KEY = certificate()
MAKE = r"""
import datetime, sys, os
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from asn1crypto import x509 as ax, core, pem, algos
D = sys.argv[1]
now = datetime.datetime.now(datetime.timezone.utc)
ca_key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
ca = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(ca_key.public_key()).serial_number(1)
  .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(30))
  .add_extension(x509.BasicConstraints(True, None), True).sign(ca_key, hashes.SHA256()))
open(f"{D}/ca.pem", "wb").write(ca.public_bytes(serialization.Encoding.PEM))
def der_name(tag, raw):
    def tlv(t, b):
        n = len(b)
        l = bytes([n]) if n < 128 else (bytes([0x81, n]) if n < 256 else bytes([0x82, n >> 8, n & 255]))
        return bytes([t]) + l + b
    oid = bytes.fromhex("0603550403")
    return tlv(0x30, tlv(0x31, tlv(0x30, oid + tlv(tag, raw))))
SUBJ = {"bmp_surrogate": (0x1e, b"\xd8\x00\x00A"), "utf8_bad": (0x0c, b"a\xff\xfeb"), "utf8_surr": (0x0c, b"\xed\xa0\x80"), "nul": (0x0c, b"a\0b"), "t61": (0x14, b"\xff\xfe"), "universal": (0x1c, b"\x00\x00\xd8\x00"), "universal_big": (0x1c, b"\x7f\xff\xff\xff"), "bmp_odd": (0x1e, b"\x00A\x00"), "ansi": (0x13, b"a\x1b[31m\nx"), "ok": (0x0c, b"me")}
SANS = {"san_dns_bad": b"\x82\x03a\xff\xfe", "san_email_bad": b"\x81\x02\xff\xfe", "san_ip_odd": b"\x87\x03abc", "san_uri_bad": b"\x86\x02\xff\xff", "san_rid": b"\x88\x02\x2a\x03", "san_nul": b"\x82\x03a\0b"}
def issue(nm, subj, san=None):
    k = ec.generate_private_key(ec.SECP256R1())
    b = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])).issuer_name(name).public_key(k.public_key()).serial_number(x509.random_serial_number())
      .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(30)))
    if san is not None:
        body = b"\x30" + bytes([len(san)]) + san
        b = b.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), body), False)
    c = b.sign(ca_key, hashes.SHA256())
    a = ax.Certificate.load(c.public_bytes(serialization.Encoding.DER))
    tbs = a["tbs_certificate"]
    old = tbs["subject"].dump()
    new = der_name(*subj)
    raw = tbs.dump()
    i = raw.rindex(old)
    body = raw[:i] + new + raw[i + len(old):]
    # fix outer length
    hdr = 4 if raw[1] == 0x82 else (3 if raw[1] == 0x81 else 2)
    inner = body[hdr:]
    n = len(inner)
    tbs2 = b"\x30\x82" + n.to_bytes(2, "big") + inner if n > 255 else (b"\x30\x81" + bytes([n]) + inner)
    sig = ca_key.sign(tbs2, ec.ECDSA(hashes.SHA256()))
    alg = a["signature_algorithm"].dump()
    bits = b"\x03" + bytes([len(sig) + 1]) + b"\0" + sig
    whole = tbs2 + alg + bits
    der = b"\x30\x82" + len(whole).to_bytes(2, "big") + whole
    open(f"{D}/{nm}.pem", "wb").write(pem.armor("CERTIFICATE", der) + k.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
for nm, s in SUBJ.items(): issue(nm, s)
for nm, s in SANS.items(): issue(nm, (0x0c, b"me"), s)
"""
NAMES = "ok bmp_surrogate utf8_bad utf8_surr nul t61 universal universal_big bmp_odd ansi san_dns_bad san_email_bad san_ip_odd san_uri_bad san_rid san_nul".split()
H = "def on_connect(inf, con):\n    con.send(repr((con.tls or {}).get('client')))\ndef on_message(msg, con): return msg\n"


def case():
    (D / "make.py").write_text(MAKE)
    subprocess.run([os.environ.get("PKI_PYTHON", PY), str(D / "make.py"), str(D)], check=True)
    bad = []
    run = Run(
        H,
        "--tls-cert",
        CERT,
        "--tls-key",
        KEY,
        "--tls-client-ca",
        str(D / "ca.pem"),
        "--tls-client-auth",
        "optional",
        workers=1,
    )
    ctx = ssl.create_default_context()
    ctx.check_hostname = False
    ctx.verify_mode = ssl.CERT_NONE
    by = WS(sock=ctx.wrap_socket(socket.create_connection(("127.0.0.1", run.port))))
    by.text()
    gw = run.gateway_pid()
    for n in NAMES:
        x = ssl.create_default_context()
        x.check_hostname = False
        x.verify_mode = ssl.CERT_NONE
        try:
            x.load_cert_chain(str(D / f"{n}.pem"))
        except Exception as e:
            print(n, "cannot be loaded here:", e)
            continue
        try:
            s = x.wrap_socket(socket.create_connection(("127.0.0.1", run.port), timeout=4))
            c = WS(sock=s, timeout=4)
            got = c.text()
            c.close()
        except Exception as e:
            got = repr(e)
        time.sleep(0.2)
        print(n, got[:200], flush=True)
        if not alive(gw):
            print("\n".join(run.lines[-5:]))
            bad.append(n)
            time.sleep(1)
            gw = run.gateway_pid()
    verdict(bool(bad), f"the gateway died of: {bad}")


main(case)
