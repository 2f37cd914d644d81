#!/usr/bin/env python3
"""The web page of distributed cron: under any CGI web server, or alone by --serve."""
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.dirname(HERE))


def main():
    """As CGI where a web server has started this; else by the command line."""
    default = os.environ.get('DISTRIBUTED_CRON_CONFIG') or os.path.join(
        os.path.dirname(HERE), 'distributed_cron.yml')
    if 'GATEWAY_INTERFACE' in os.environ:  # no argument counts: they may be a query's
        from wsgiref.handlers import CGIHandler

        from web.pages import Application
        CGIHandler.log_exception = log_exception
        return CGIHandler().run(Application(default))
    import argparse
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--serve', metavar='[HOST:]PORT', required=True,
                        help='listen there; HOST is 127.0.0.1 unless given')
    parser.add_argument('--config', metavar='FILE', default=default)
    args = parser.parse_args()
    from web import alone
    return alone.serve(args.serve, args.config)


def log_exception(handler, exc_info):
    """A client that went away: a line, no traceback."""
    print('index.cgi: %r' % exc_info[1], file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
