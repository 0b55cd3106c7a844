"""swift_server.py - OpenStack Swift with its s3api, whole and of Debian's packages, in one process: proxy, account,
container and object server on ports of 127.0.0.1 that are free. Nothing outside of DIR is written or read as a setting.

    swift_server.py DIR ACCESS_KEY SECRET_KEY

The proxy listens first, so it is the first listening socket of the process; it answers /healthcheck when all is ready.
Names of users are ACCOUNT:USER, and so are access keys. Without memcached: only tokens need it, S3 has none.
"""
import logging
import os
import sys

import eventlet
eventlet.patcher.monkey_patch(all=False, socket=True, select=True, thread=True)

from eventlet import wsgi
from swift.common import constraints, storage_policy, utils

FILTERS = 'catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk s3api tempauth slo dlo'.split()
OPTIONS = {
    'cache': 'use = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n',
    'tempauth': 'use = egg:swift#tempauth\nuser_%s = %s .admin\n',
    's3api': 'use = egg:swift#s3api\nlocation = us-east-1\nallow_no_owner = true\n',
}


def write(path, text):
    with open(path, 'w') as f:
        f.write(text)
    return path


def ring(directory, name, port):
    from swift.common.ring import RingBuilder
    builder = RingBuilder(4, 1, 0)
    builder.add_dev({'id': 0, 'region': 1, 'zone': 1, 'weight': 1, 'ip': '127.0.0.1', 'port': port, 'device': 'd1',
                     'replication_ip': '127.0.0.1', 'replication_port': port, 'meta': ''})
    builder.rebalance()
    builder.get_ring().save(f'{directory}/{name}.ring.gz')


def main(directory, access_key, secret_key):
    devices = f'{directory}/devices'
    os.makedirs(f'{devices}/d1')
    sockets = {name: eventlet.listen(('127.0.0.1', 0)) for name in ('proxy', 'account', 'container', 'object')}
    utils.SWIFT_CONF_FILE = constraints.SWIFT_CONF_FILE = storage_policy.SWIFT_CONF_FILE = write(
        f'{directory}/swift.conf', '[swift-hash]\nswift_hash_path_prefix = x\nswift_hash_path_suffix = x\n'
        '[storage-policy:0]\nname = one\ndefault = yes\n')
    utils.validate_hash_conf()
    constraints.reload_constraints()
    storage_policy.reload_storage_policies()

    common = f'[DEFAULT]\nswift_dir = {directory}\ndevices = {devices}\nmount_check = false\n' \
        'fallocate_reserve = 0\ndisable_fallocate = true\n'
    files = {}
    for name in ('account', 'container', 'object'):
        ring(directory, name, sockets[name].getsockname()[1])
        files[name] = write(f'{directory}/{name}.conf', f'{common}[pipeline:main]\npipeline = {name}-server\n'
                            f'[app:{name}-server]\nuse = egg:swift#{name}\n')
    options = dict(OPTIONS, tempauth=OPTIONS['tempauth'] % (access_key.replace(':', '_'), secret_key))
    text = f'{common}[pipeline:main]\npipeline = {" ".join(FILTERS)} proxy-server\n' \
        '[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n'
    for name in FILTERS:
        text += f'[filter:{name}]\n' + options.get(name, f'use = egg:swift#{name.replace("-", "_")}\n')
    files['proxy'] = write(f'{directory}/proxy.conf', text)

    from swift.common.wsgi import SwiftHttpProtocol, loadapp
    apps = {name: loadapp(files[name], global_conf={'log_level': 'WARNING'}) for name in files}
    threads = [eventlet.spawn(wsgi.server, sockets[name], apps[name], logging.getLogger(name),
                              protocol=SwiftHttpProtocol, log_output=False) for name in reversed(sockets)]
    for thread in threads:
        thread.wait()


if __name__ == '__main__':
    main(*sys.argv[1:])
