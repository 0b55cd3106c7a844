/* fake_agent.c - see fake_agent.h. */
#include "tests/support/fake_agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_CONNS 64

static bool read_all(int fd, void *to, size_t n)
{
    for (uint8_t *p = to; n > 0;) {
        ssize_t got = read(fd, p, n);

        if (got <= 0)
            return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

static bool write_all(int fd, const void *from, size_t n)
{
    for (const uint8_t *p = from; n > 0;) {
        ssize_t got = send(fd, p, n, MSG_NOSIGNAL);

        if (got <= 0)
            return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

static bool send_reply(int fd, const uint8_t id[4], const ldr_wire_reply *msg, size_t extra)
{
    size_t n = larder__wire__reply__get_packed_size(msg);
    uint8_t *p = calloc(1, 13 + n + extra);
    bool ok;

    p[0] = 1;
    for (int i = 0; i < 8; i++)
        p[1 + i] = (uint8_t)((uint64_t)(n + 4) >> (56 - 8 * i));
    memcpy(p + 9, id, 4);
    larder__wire__reply__pack(msg, p + 13);
    ok = write_all(fd, p, 13 + n + extra);
    free(p);
    return ok;
}

static void reply_init(struct fake_reply *r)
{
    larder__wire__reply__init(&r->msg);
    larder__wire__status__init(&r->status);
    larder__wire__look__init(&r->look);
    larder__wire__bytes__init(&r->bytes);
    larder__wire__meta__init(&r->meta);
    larder__wire__status_reply__init(&r->items);
    larder__wire__page__init(&r->page);
    larder__wire__many__init(&r->many);
    larder__wire__staging__init(&r->staging);
    larder__wire__signed__init(&r->signed_url);
    r->raw = NULL;
    r->raw_len = 0;
}

/* One request of a connection; false: end it. */
static bool serve(struct fake_agent *a, int fd)
{
    uint8_t head[13], *body;
    uint64_t n = 0;
    struct fake_reply r;
    ldr_wire_request *req;
    bool go_on = false;

    if (!read_all(fd, head, sizeof head) || head[0] != 1 || !(head[9] & 0x80))
        return false;
    for (int i = 0; i < 8; i++)
        n = n << 8 | head[1 + i];
    if (n < 4 || n > LDR_WIRE_REQUEST_MAX + 4)
        return false;
    body = malloc(n);
    if (read_all(fd, body, n - 4) && !ldr_wire_unpack_request(body, n - 4, &req, NULL)) {
        reply_init(&r);
        switch (a->answer(a->user, req, &r)) {
        case FAKE_SEND:
            go_on = send_reply(fd, head + 9, &r.msg, 0);
            break;
        case FAKE_CHATTER:
            go_on = send_reply(fd, head + 9, &r.msg, 1);
            break;
        case FAKE_HANG:
            go_on = true;
            break;
        case FAKE_RAW:
            write_all(fd, r.raw, r.raw_len);
            break;
        case FAKE_CLOSE:
            break;
        }
        larder__wire__request__free_unpacked(req, NULL);
    }
    free(body);
    return go_on;
}

static void *run(void *user)
{
    static const uint8_t req_hello[8] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 },
                         rep_hello[8] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };
    struct fake_agent *a = user;
    struct pollfd p[2 + MAX_CONNS] = { { a->wake[0], POLLIN, 0 }, { a->listener, POLLIN, 0 } };
    nfds_t n = 2;

    while (poll(p, n, -1) > 0 && !p[0].revents) {
        for (nfds_t i = n; i-- > 2;)
            if (p[i].revents && !serve(a, p[i].fd)) {
                close(p[i].fd);
                p[i] = p[--n];
            }
        if (p[1].revents && n < 2 + MAX_CONNS) {
            uint8_t theirs[8];
            int fd = accept4(a->listener, NULL, NULL, SOCK_CLOEXEC);

            a->connections++;
            if (fd >= 0 && write_all(fd, rep_hello, 8) && read_all(fd, theirs, 8) && !memcmp(theirs, req_hello, 8))
                p[n++] = (struct pollfd){ fd, POLLIN, 0 };
            else if (fd >= 0)
                close(fd);
        }
    }
    while (n > 2)
        close(p[--n].fd);
    return NULL;
}

void fake_start(struct fake_agent *a, const char *cache_dir, fake_answer_fn *answer, void *user)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    char folder[280];

    *a = (struct fake_agent){ .answer = answer, .user = user };
    snprintf(folder, sizeof folder, "%s/ipc", cache_dir);
    mkdir(folder, 0750);
    snprintf(a->path, sizeof a->path, "%s/agent.sock", folder);
    if (strlen(a->path) >= sizeof addr.sun_path)
        abort();
    strcpy(addr.sun_path, a->path);
    a->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pipe(a->wake) || bind(a->listener, (struct sockaddr *)&addr, sizeof addr) || listen(a->listener, 16) ||
        pthread_create(&a->thread, NULL, run, a)) {
        perror("fake_start");
        abort();
    }
}

void fake_stop(struct fake_agent *a)
{
    if (write(a->wake[1], "x", 1) != 1)
        abort();
    pthread_join(a->thread, NULL);
    close(a->listener);
    close(a->wake[0]);
    close(a->wake[1]);
    unlink(a->path);
}

void fake_look(struct fake_reply *r, uint64_t nonce, const struct ldr_id *id)
{
    r->msg.nonce = nonce;
    if (id) {
        r->msg.object_id.data = (uint8_t *)(uintptr_t)id->b;
        r->msg.object_id.len = sizeof id->b;
    }
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_LOOK;
    r->msg.look = &r->look;
}

void fake_bytes(struct fake_reply *r, const void *data, size_t len, uint64_t offset, const struct ldr_meta *meta,
                const char *why)
{
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_BYTES;
    r->msg.bytes = &r->bytes;
    r->bytes.data.data = (uint8_t *)(uintptr_t)data;
    r->bytes.data.len = len;
    r->bytes.offset = offset;
    r->bytes.why = (char *)(uintptr_t)why;
    if (meta) {
        ldr_wire_set_meta(meta, &r->meta);
        r->bytes.meta = &r->meta;
    }
}

void fake_fail(struct fake_reply *r, enum larder_kind kind, const char *message)
{
    r->status.kind = kind;
    r->status.message = (char *)(uintptr_t)message;
    r->msg.status = &r->status;
}

void fake_meta(struct fake_reply *r, const struct ldr_meta *meta)
{
    ldr_wire_set_meta(meta, &r->meta);
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_META;
    r->msg.meta = &r->meta;
}

void fake_page(struct fake_reply *r, Larder__Wire__Entry **entry, size_t n, const char *next)
{
    r->page.entry = entry;
    r->page.n_entry = n;
    r->page.next = (char *)(uintptr_t)next;
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_PAGE;
    r->msg.page = &r->page;
}

void fake_many(struct fake_reply *r, Larder__Wire__ManyItem **item, size_t n)
{
    r->many.item = item;
    r->many.n_item = n;
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_MANY;
    r->msg.many = &r->many;
}

void fake_items(struct fake_reply *r, Larder__Wire__StatusItem **item, size_t n)
{
    r->items.item = item;
    r->items.n_item = n;
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_STATUS_REPLY;
    r->msg.status_reply = &r->items;
}

void fake_staging(struct fake_reply *r, uint32_t block, const char *name, uint64_t size)
{
    r->staging.block = block;
    r->staging.name = (char *)(uintptr_t)name;
    r->staging.size = size;
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_STAGING;
    r->msg.staging = &r->staging;
}

void fake_signed(struct fake_reply *r, const char *url, char **header, size_t n, int64_t expires)
{
    r->signed_url.url = (char *)(uintptr_t)url;
    r->signed_url.header = header;
    r->signed_url.n_header = n;
    r->signed_url.expires = expires;
    r->msg.body_case = LARDER__WIRE__REPLY__BODY_SIGNED;
    r->msg.signed_ = &r->signed_url;
}
