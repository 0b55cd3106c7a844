/* settings.tbl.h - one row for each setting: it is read, checked, explained and documented by this row
 * (docs/configuration.md; a test compares). `bare` is the default without a file, where that differs. */
/*          id                     key                                    type       default                 bare
            choices, min, max, flags, what it does */
/* clang-format off */
LDR_SETTING(STORAGE_TYPE, "storage.type", CHOICE, "stow", NULL,
            "s3|minio|local|mem|stow|redis", 0, 0, 0,
            "the primary store; `stow` takes it from `storage.stow.kind`, `redis` is not in this release. Without a `storage` section: a local store")
LDR_SETTING(STORAGE_CONTAINER, "storage.container", TEXT, NULL, NULL, NULL, 0, 0, 0,
            "the base container (bucket); S3 needs one")
LDR_SETTING(STORAGE_MULTI, "storage.enable-multicontainer", BOOL, "false", NULL, NULL, 0, 0, 0,
            "let DataStore and the data proxy leave the base container; `larder` itself is not bound by it")
LDR_SETTING(STOW_KIND, "storage.stow.kind", TEXT, "s3", NULL, NULL, 0, 0, 0,
            "with type `stow`: `s3` or `local`; `google`, `azure`, `oracle`, `swift` and `redis` are not in this release")
LDR_SETTING(STOW_CONFIG, "storage.stow.config", TEXTS, "region: us-east-1", NULL, NULL, 0, 0, 0,
            "settings of the primary store, see below")
LDR_SETTING(SCHEMES, "storage.schemes", MAPS, NULL, NULL, NULL, 0, 0, 0,
            "further stores by the scheme that they serve: `s3`, `file`, `mem`")
LDR_SETTING(SCHEME_KIND, "storage.schemes.NAME.kind", TEXT, NULL, NULL, NULL, 0, 0, 0,
            "`s3`, `local` or `mem`; left out, it follows from the scheme")
LDR_SETTING(SCHEME_CONFIG, "storage.schemes.NAME.config", TEXTS, NULL, NULL, NULL, 0, 0, 0,
            "settings of that store; `file` needs `path`; `s3` without them takes what its surroundings offer")
LDR_SETTING(SCHEME_REDIS_ADDR, "storage.schemes.NAME.redis.addr", TEXT, NULL, NULL, NULL, 0, 0, CFG_LATER, "host:port")
LDR_SETTING(SCHEME_REDIS_USER, "storage.schemes.NAME.redis.username", TEXT, NULL, NULL, NULL, 0, 0, CFG_LATER, "user name")
LDR_SETTING(SCHEME_REDIS_PASSWORD, "storage.schemes.NAME.redis.password", TEXT, NULL, NULL, NULL, 0, 0,
            CFG_LATER | CFG_SECRET, "password")
LDR_SETTING(SCHEME_REDIS_DB, "storage.schemes.NAME.redis.db", COUNT, "0", NULL, NULL, 0, INT32_MAX, CFG_LATER,
            "number of the database")
LDR_SETTING(REDIS_ADDR, "storage.redis.addr", TEXT, NULL, NULL, NULL, 0, 0, CFG_LATER, "host:port")
LDR_SETTING(REDIS_USER, "storage.redis.username", TEXT, NULL, NULL, NULL, 0, 0, CFG_LATER, "user name")
LDR_SETTING(REDIS_PASSWORD, "storage.redis.password", TEXT, NULL, NULL, NULL, 0, 0, CFG_LATER | CFG_SECRET, "password")
LDR_SETTING(REDIS_DB, "storage.redis.db", COUNT, "0", NULL, NULL, 0, INT32_MAX, CFG_LATER, "number of the database")
LDR_SETTING(CACHE_MAX_MBS, "storage.cache.max_size_mbs", COUNT, "0", NULL, NULL, 0, INT32_MAX, CFG_LATER,
            "Flyte's cache within each process; larder's own is `larder.cache`")
LDR_SETTING(CACHE_GC, "storage.cache.target_gc_percent", COUNT, "0", NULL, NULL, 0, INT32_MAX, CFG_LATER, "means nothing here")
LDR_SETTING(MAX_DOWNLOAD, "storage.limits.maxDownloadMBs", COUNT, "2", NULL, NULL, 0, INT32_MAX, CFG_LATER,
            "largest object in MiB that DataStore reads; 0: no limit")
LDR_SETTING(CLIENT_HEADERS, "storage.defaultHttpClient.headers", HEADERS, NULL, NULL, NULL, 0, 0, CFG_LATER | CFG_SECRET,
            "added to each request")
LDR_SETTING(CLIENT_TIMEOUT, "storage.defaultHttpClient.timeout", DURATION, "0s", NULL, NULL, 0, 0, CFG_LATER,
            "of one request; 0: none")
LDR_SETTING(CLIENT_IDLE, "storage.defaultHttpClient.maxIdleConns", COUNT, "1024", NULL, NULL, 0, INT32_MAX, CFG_LATER,
            "idle connections kept")
LDR_SETTING(CLIENT_IDLE_HOST, "storage.defaultHttpClient.maxIdleConnsPerHost", COUNT, "1024", NULL, NULL, 0, INT32_MAX,
            CFG_LATER, "the same, to one host")
LDR_SETTING(CLIENT_CONNS_HOST, "storage.defaultHttpClient.maxConnsPerHost", COUNT, "0", NULL, NULL, 0, INT32_MAX,
            CFG_LATER, "connections to one host; 0: no limit")
LDR_SETTING(CLIENT_IDLE_TIMEOUT, "storage.defaultHttpClient.idleConnTimeout", DURATION, "90s", NULL, NULL, 0, 0,
            CFG_LATER, "after which an idle connection is closed")
LDR_SETTING(SIGN_OVERRIDE, "storage.signedUrl.stowConfigOverride", TEXTS, NULL, NULL, NULL, 0, 0, CFG_SECRET,
            "`endpoint`, `disable_ssl` and `region` of signed URLs, where they differ from those of `storage.stow.config`")

LDR_SETTING(UPLOAD_MAX, "dataproxy.upload.maxSize", QUANTITY, "100Mi", NULL, NULL, 0, 0, CFG_LATER,
            "largest upload; 0 or less: no limit")
LDR_SETTING(UPLOAD_EXPIRES, "dataproxy.upload.maxExpiresIn", DURATION, "1h", NULL, NULL, 0, 0, CFG_LATER | CFG_SIGNED,
            "longest life of an upload location, and the default one; 0 or less: no limit")
LDR_SETTING(UPLOAD_NAME, "dataproxy.upload.defaultFileNameLength", COUNT, "20", NULL, NULL, 0, INT32_MAX, CFG_LATER,
            "means nothing, as in Flyte")
LDR_SETTING(UPLOAD_PREFIX, "dataproxy.upload.storagePrefix", TEXT, "uploads", NULL, NULL, 0, 0, CFG_LATER,
            "first part of the path of uploads")
LDR_SETTING(DOWNLOAD_EXPIRES, "dataproxy.download.maxExpiresIn", DURATION, "1h", NULL, NULL, 0, 0, CFG_LATER | CFG_SIGNED,
            "default life of a download link")

LDR_SETTING(DIR, "larder.cache.dir", PATH, "/var/cache/larder", "$XDG_CACHE_HOME/larder", NULL, 0, 0, 0,
            "the cache, on ext4, xfs, btrfs or tmpfs; made if it is missing")
LDR_SETTING(MAX_SIZE, "larder.cache.max_size", AMOUNT, "min(10GiB,10%)", NULL, NULL, 1, UINT64_MAX, 0,
            "bytes that the cache may take; percent: of its file system")
LDR_SETTING(MIN_FREE, "larder.cache.min_free", AMOUNT, "20%", "5%", NULL, 0, UINT64_MAX, 0,
            "space of the file system that the cache leaves free, whoever else fills it")
LDR_SETTING(MIN_FREE_INODES, "larder.cache.min_free_inodes", SHARE, "10%", NULL, NULL, 0, UINT64_MAX, 0,
            "inodes that the cache leaves free")
LDR_SETTING(MAX_FILES, "larder.cache.max_files", COUNT, "1000000", NULL, NULL, 16, UINT64_C(1) << 40, 0,
            "files that the cache may have")
LDR_SETTING(BLOCK_SIZE, "larder.cache.block_size", SIZE, "8MiB", NULL, NULL, UINT64_C(1) << LDR_BLOCK_LOG2_MIN,
            UINT64_C(1) << LDR_BLOCK_LOG2_MAX, CFG_POW2,
            "unit of caching and fetching, a power of two from 64KiB to 1TiB; larger for objects of more than 4,096 blocks")
LDR_SETTING(INLINE_LIMIT, "larder.cache.inline_limit", COUNT, "20464", NULL, NULL, 0, LDR_RECORD_MAX, 0,
            "bytes of an index record, head included, up to which an object is kept in the index itself")
LDR_SETTING(INLINE_SIZE, "larder.cache.inline_size", AMOUNT, "10%", NULL, NULL, 0, UINT64_MAX, 0,
            "bytes that such objects may take in all; percent: of `max_size`")
LDR_SETTING(ENDPOINT, "larder.endpoint", PATH, "CACHE/ipc", NULL, NULL, 0, 0, 0,
            "directory of the agent's socket `agent.sock`, whose path has at most 90 bytes; by default `ipc` in the cache")
LDR_SETTING(GROUP, "larder.access.group", GROUP, NULL, NULL, NULL, 0, 0, 0,
            "the group, name or number, whose members may use the cache; none: the agent's own")
LDR_SETTING(PREFIXES, "larder.prefixes", MAPLIST, NULL, NULL, NULL, 0, 0, 0,
            "how fresh objects have to be; the longest match wins, without one: `ttl 60s`")
LDR_SETTING(MATCH, "larder.prefixes[].match", TEXT, NULL, NULL, NULL, 0, 0, 0,
            "start of a reference: `s3://`, `s3://bucket/`, `s3://bucket/path/`")
LDR_SETTING(FRESHNESS, "larder.prefixes[].freshness", FRESHNESS, NULL, NULL, NULL, 0, 0, 0,
            "`immutable`: never asked for again; `ttl D`: after D; `always`: at each read")
LDR_SETTING(WRITES, "larder.prefixes[].writes", CHOICE, "keep", NULL, "keep|skip", 0, 0, 0,
            "what becomes of objects that are written through larder: `keep` them in the cache, or `skip` it")
LDR_SETTING(DOMAINS, "larder.domains", MAPLIST, NULL, NULL, NULL, 0, 0, 0,
            "more trust domains; only the empty list `[]` in this release")
LDR_SETTING(LISTEN, "larder.http.listen", LISTEN, NULL, NULL, NULL, 0, 0, CFG_LATER,
            "address of the data proxy, metrics and health")
LDR_SETTING(NET_THREADS, "larder.net.threads", COUNT, "1", NULL, NULL, 1, 64, 0, "threads that talk to stores")
LDR_SETTING(NET_CONNS, "larder.net.connections_per_host", COUNT, "32", NULL, NULL, 1, 1024, 0,
            "connections of such a thread to one host")
LDR_SETTING(LOG_LEVEL, "larder.log.level", CHOICE, "info", NULL, "error|warn|info|debug", 0, 0, 0, "what is logged")
LDR_SETTING(LOG_FORMAT, "larder.log.format", CHOICE, "text", NULL, "text|json", 0, 0, 0, "how")
