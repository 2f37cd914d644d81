"""A TCP proxy between one host and one database server, which delays, cuts and swallows."""

import asyncio
import contextlib
import functools
import random
import socket
import threading


@functools.cache
def loop():
    """The event loop of all proxies, in a thread that starts with the first of them."""
    found = asyncio.new_event_loop()
    threading.Thread(target=found.run_forever, daemon=True).start()
    return found


class Proxy:
    """Passes on what comes, but for what its attributes say. They may be set at any time."""

    def __init__(self, target, address='127.0.0.1'):
        self.target, self.links = target, set()
        self.heal()
        self.cuts = 0  # answers and statements that were cut, since the start
        listener = socket.create_server((address, 0))
        self.port = listener.getsockname()[1]
        self.server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self.serve, sock=listener), loop()
        ).result()

    def heal(self):
        self.refuses = False  # new connections are closed at once
        self.swallows = (
            False  # nothing passes, nothing is closed; later it passes after all
        )
        self.delay = 0  # seconds that requests wait
        self.share = 1  # of the requests that wait
        self.pattern, self.times = None, 0  # so many statements that hold it are cut
        self.watched, self.act = None, None  # text on which to act, once
        self.vanishing = None  # text after which a link passes nothing more
        self.rewrite = None  # what the server is asked instead: bytes to bytes
        self.answered = (
            False  # cut when the server has answered, not before it is asked
        )

    def cut(self, pattern, answered, times):
        """Cut the next so many statements that hold this text (bytes)."""
        self.pattern, self.answered, self.times = pattern, answered, times
        self.reset()  # later on a connection its statements may be prepared, and nameless

    def watch(self, pattern, act):
        """Do something, once, when a statement that holds this text comes."""
        self.act, self.watched = act, pattern
        self.reset()

    def vanish(self, pattern, act):
        """Pass on the next statement that holds this text, and nothing after it on that
        connection: not even its end, should the client die. So a host looks to a server
        when its cable is pulled. Then do something."""
        self.act, self.vanishing = act, pattern
        self.reset()

    def reset(self):
        """Break all connections."""

        def abort():
            for link in list(self.links):
                link.abort()

        loop().call_soon_threadsafe(abort)

    def close(self):
        loop().call_soon_threadsafe(self.server.close)
        self.reset()

    async def serve(self, reader, writer):
        link = Link(self, writer)
        self.links.add(link)
        try:
            while self.swallows:
                await asyncio.sleep(0.05)
            if self.refuses:
                return
            server, link.server = await asyncio.open_connection(
                '127.0.0.1', self.target
            )
            await asyncio.gather(link.ask(reader), link.answer(server))
        except OSError:
            pass  # the server is down, or somebody left
        finally:
            link.abort()
            self.links.discard(link)


class Link:
    """One connection of a client, and that to the server for it."""

    def __init__(self, proxy, client):
        self.proxy, self.client, self.server, self.cutting = proxy, client, None, False
        self.vanished = False

    async def pass_nothing(self):
        """Until the proxy is closed, or the server gives up."""
        while not self.server.is_closing():
            await asyncio.sleep(0.05)

    def abort(self):
        for writer in filter(None, (self.client, self.server)):
            with contextlib.suppress(RuntimeError):  # its loop has ended
                writer.transport.abort()

    async def ask(self, reader):
        """Pass on requests; also of a client that gave up meanwhile: so they land late."""
        proxy = self.proxy
        while data := await reader.read(1 << 18):
            if proxy.delay and random.random() < proxy.share:
                await asyncio.sleep(proxy.delay)
            while proxy.swallows:
                await asyncio.sleep(0.05)
            if proxy.watched and proxy.watched in data:
                proxy.watched = None
                proxy.act()
            if proxy.rewrite:
                data = proxy.rewrite(data)
            if proxy.vanishing and proxy.vanishing in data:
                proxy.vanishing, self.vanished = None, True
                self.server.write(data)
                proxy.act()
                return await self.pass_nothing()
            if proxy.times and proxy.pattern in data:
                proxy.times, proxy.cuts = proxy.times - 1, proxy.cuts + 1
                if not proxy.answered:
                    return self.abort()
                self.cutting = True
            self.server.write(data)
            await self.server.drain()
        self.server.write_eof()

    async def answer(self, reader):
        while data := await reader.read(1 << 18):
            while self.proxy.swallows:
                await asyncio.sleep(0.05)
            if self.cutting:
                return self.abort()
            if self.vanished:
                continue
            self.client.write(data)
            await self.client.drain()
        self.client.close()
