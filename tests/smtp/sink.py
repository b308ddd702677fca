"""A mail server that keeps what it is given: one JSON object a line in a file. For the tests of notices.

Some recipients are special, by the part of the address before the @:
  refused     is never taken (550)
  later       is taken the second time (451 before)
  lost        is taken, but the first time the connection ends before the server says so
  silent      is never answered after the content
"""

import argparse
import asyncio
import email
import email.policy
import json
import ssl

from aiosmtpd.smtp import SMTP, AuthResult


class Keeper:
    def __init__(self, path):
        self.path = path
        self.seen = set()

    def first(self, recipient):
        is_first = recipient not in self.seen
        self.seen.add(recipient)
        return is_first

    async def handle_RCPT(self, server, session, envelope, address, options):
        local = address.split("@")[0]
        if local == "refused":
            return "550 5.1.1 no such mailbox"
        if local == "later" and self.first(address):
            return "451 4.7.1 greylisted"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        content = envelope.content
        message = email.message_from_bytes(content, policy=email.policy.default)
        login = session.auth_data.decode() if session.authenticated else None
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "login": login,
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "subject": message["subject"],
            "message_id": message["message-id"],
            "date": message["date"],
            "auto_submitted": message["auto-submitted"],
            "text": message.get_content(),
            "raw": content.decode(),
        }
        with open(self.path, "a", encoding="utf-8") as kept:
            kept.write(json.dumps(mail) + "\n")
        for recipient in envelope.rcpt_tos:
            local = recipient.split("@")[0]
            if local == "lost" and self.first(recipient):
                server.transport.abort()
            if local == "silent":
                await asyncio.sleep(3600)
        return "250 2.0.0 kept"


async def serve(options):
    context = None
    if options.tls != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.cert, options.key)

    def authenticate(server, session, envelope, mechanism, data):
        user, password = data.login.decode(), data.password.decode()
        if (user, password) == (options.user, options.password):
            return AuthResult(success=True, auth_data=data.login)
        return AuthResult(success=False, handled=False)

    keeper = Keeper(options.mails)

    def protocol():
        settings = {"hostname": "sink", "enable_SMTPUTF8": False}
        if options.user:
            settings.update(authenticator=authenticate, auth_required=True)
        if options.tls == "starttls":
            settings.update(tls_context=context, require_starttls=True)
        else:
            settings.update(auth_require_tls=False)
        return SMTP(keeper, **settings)

    loop = asyncio.get_running_loop()
    wrapped = context if options.tls == "tls" else None
    server = await loop.create_server(protocol, "127.0.0.1", options.port, ssl=wrapped)
    await server.serve_forever()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mails", required=True)
    parser.add_argument("--tls", choices=["starttls", "tls", "none"], required=True)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--user")
    parser.add_argument("--password")
    asyncio.run(serve(parser.parse_args()))


main()
