/* integrity_test.c - what a store gives is not what it once took: objects of several blocks whose bytes were changed
 * below versitygw, which goes on to tell the checksums of before. */
#include "backends/sum.h"
#include "tests/e2e/e2e.h"
#include "tests/support/op_upload.h"

#include <curl/curl.h>
#include <fcntl.h>

#ifndef LDR_TEST_BIN
#define LDR_TEST_BIN "build/bin"
#endif

#define PART ((size_t)LDR_BLOCK_SIZE_DEFAULT)
#define SIZE (2 * PART + 4 * LDR_MIB)
#define URI  "s3://" S3_BUCKET "/k"

static char dir[TEST_DIR_MAX];
static struct s3_server s3;
static struct agent agent;
static struct larder *l;
static uint8_t *bytes;

static void prepare(void)
{
    char reason[512] = "";

    test_dir_make(dir);
    need_server(s3_server_start_versitygw(&s3, dir, reason, sizeof reason), reason);
    bytes = bd_bytes(SIZE, 3);
    agent_init(&agent, &s3);
    agent_start(&agent);
    l = agent_open(&agent);
}

static void leave(void)
{
    larder_close(&l);
    agent_release(&agent);
    s3_server_stop(&s3);
    free(bytes);
    test_dir_remove(dir);
}

TestSuite(integrity, .init = prepare, .fini = leave, .timeout = 60);

/* ---- objects with checksums ---- */

static size_t part_len(uint32_t n)
{
    return SIZE - (n - 1) * PART < PART ? SIZE - (n - 1) * PART : PART;
}

/* Parts as large as blocks, and one checksum of all bytes. */
static void seed_full(const char *algo)
{
    static struct op_upload u;
    struct bd *d = NULL;
    struct larder_err err = { 0 };

    cr_assert(eq(int,
                 bd_open("s3", "s3",
                         (const char *[]){ "endpoint", s3.endpoint, "region", "us-east-1", "access_key_id",
                                           S3_ACCESS_KEY, "secret_key", S3_SECRET_KEY, "checksum", algo, NULL },
                         &d, &err),
                 LARDER_OK),
              "%s", err.msg);
    op_upload_init(&u, d, S3_BUCKET, "k", PART);
    cr_assert(eq(int, op_upload_begin(&u, NULL, &err), LARDER_OK), "%s", err.msg);
    for (uint32_t n = 1; n <= 3; n++)
        cr_assert(eq(int, op_upload_part(&u, n, bytes + (n - 1) * PART, part_len(n), &err), LARDER_OK), "%s", err.msg);
    cr_assert(eq(int, op_upload_end(&u, 3, SIZE, NULL, NULL, &err), LARDER_OK), "%s", err.msg);
    bd_close(&d);
}

struct text {
    char p[4096];
    size_t len;
};

static size_t take(char *p, size_t one, size_t n, void *user)
{
    struct text *t = user;
    size_t room = sizeof t->p - 1 - t->len;

    memcpy(t->p + t->len, p, n < room ? n : room);
    t->len += n < room ? n : room;
    return one * n;
}

/* A signed request of the test's own, as larder asks for no such checksums. `line`: a header, or NULL. */
static struct text request(const char *method, const char *query, const char *line, const char *line2, const void *body,
                           size_t len)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type:");
    struct text answer = { .len = 0 };
    char url[1024];
    CURL *c = curl_easy_init();
    long status = 0;

    snprintf(url, sizeof url, "%s/%s/k?%s", s3.endpoint, S3_BUCKET, query);
    headers = curl_slist_append(headers, "x-amz-content-sha256: UNSIGNED-PAYLOAD");
    headers = line ? curl_slist_append(headers, line) : headers;
    headers = line2 ? curl_slist_append(headers, line2) : headers;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body ? body : "");
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)len);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_AWS_SIGV4, "aws:amz:us-east-1:s3");
    curl_easy_setopt(c, CURLOPT_USERPWD, S3_ACCESS_KEY ":" S3_SECRET_KEY);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &answer);
    cr_assert(eq(int, curl_easy_perform(c), CURLE_OK));
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    cr_assert(eq(int, (int)status, 200), "%s %s: %s", method, query, answer.p);
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    return answer;
}

/* Parts of `part` bytes, and one checksum of their checksums. */
static void seed_composite(size_t part)
{
    struct text begun =
        request("POST", "uploads=", "x-amz-checksum-algorithm: CRC32C", "x-amz-checksum-type: COMPOSITE", NULL, 0);
    const char *at = strstr(begun.p, "<UploadId>");
    char id[128], query[256], line[128], body[2048] = "<CompleteMultipartUpload>", text[LDR_SUM_TEXT_MAX];
    uint32_t n = 0;

    cr_assert(at && sscanf(at, "<UploadId>%127[^<]", id) == 1, "%s", begun.p);
    for (size_t from = 0; from < SIZE; from += part) {
        size_t len = SIZE - from < part ? SIZE - from : part, used;
        uint8_t raw[LDR_SUM_RAW_MAX];
        char md5[LDR_SUM_TEXT_MAX];
        struct ldr_sum sum = { 0 };

        ldr_sum_crc_raw(LDR_SUM_CRC32C, ldr_sum_crc(LDR_SUM_CRC32C, 0, bytes + from, len), raw);
        ldr_sum_base64(LDR_SUM_CRC32C, raw, text);
        snprintf(query, sizeof query, "partNumber=%u&uploadId=%s", ++n, id);
        snprintf(line, sizeof line, "x-amz-checksum-crc32c: %s", text);
        request("PUT", query, line, NULL, bytes + from, len);
        cr_assert(eq(int, ldr_sum_begin(&sum, LDR_SUM_MD5, NULL), LARDER_OK));
        ldr_sum_add(&sum, bytes + from, len);
        ldr_sum_end(&sum, raw);
        for (int i = 0; i < 16; i++)
            sprintf(md5 + 2 * i, "%02x", raw[i]);
        used = strlen(body);
        snprintf(body + used, sizeof body - used,
                 "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag><ChecksumCRC32C>%s</ChecksumCRC32C></Part>", n, md5,
                 text);
    }
    strcat(body, "</CompleteMultipartUpload>");
    snprintf(query, sizeof query, "uploadId=%s", id);
    request("POST", query, "x-amz-checksum-type: COMPOSITE", NULL, body, strlen(body));
}

/* One bit of the file below the gateway. */
static void damage(size_t at)
{
    char path[TEST_DIR_MAX + 64];
    uint8_t byte = bytes[at] ^ 4;
    int fd;

    snprintf(path, sizeof path, "%s/data/" S3_BUCKET "/k", dir);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    cr_assert(ge(int, fd, 0));
    cr_assert(eq(int, (int)pwrite(fd, &byte, 1, (off_t)at), 1));
    close(fd);
}

/* ---- what readers get ---- */

static int run_get(char *output, size_t cap)
{
    char *bin = realpath(LDR_TEST_BIN, NULL), *command = NULL;
    size_t n;
    int status;
    FILE *f;

    cr_assert(bin && asprintf(&command, "cd '%s' && LARDER_CACHE_DIR='%s' exec '%s/larder' get " URI " -o out 2>&1",
                              agent.dir, agent.cache, bin) != -1);
    f = popen(command, "r");
    cr_assert(f != NULL);
    n = fread(output, 1, cap - 1, f);
    output[n] = '\0';
    status = pclose(f);
    free(command);
    free(bin);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect_nothing_left(void)
{
    char path[TEST_DIR_MAX + 16];

    snprintf(path, sizeof path, "%s/out", agent.dir);
    cr_expect(eq(int, access(path, F_OK), -1), "a file of wrong bytes");
    agent_wait_until(agent_counter(&agent, "block_files") == 0);
}

static void expect_refused(const char *algo)
{
    struct larder_err err = { 0 };
    char output[4096];

    expect_kind(l, URI, LONG_MS, LARDER_CORRUPT, &err);
    cr_expect(has(err.msg, URI) && has(err.msg, algo), "%s", err.msg);
    cr_expect(eq(u64, agent_counter(&agent, "corrupt_objects"), 2));
    expect_nothing_left();
    cr_expect(eq(int, run_get(output, sizeof output), 1));
    cr_expect(has(output, algo), "%s", output);
    expect_nothing_left();
    cr_expect(agent_logged(&agent, "is not what its store says it is"));
}

static void expect_good(void)
{
    expect_bytes(l, URI, bytes, SIZE);
    cr_expect(eq(u64, agent_counter(&agent, "store_gets"), 3));
    cr_expect(eq(u64, agent_counter(&agent, "corrupt_objects"), 0));
}

Test(integrity, a_sum_of_all_bytes_that_is_right__crc64nvme)
{
    seed_full("crc64nvme");
    expect_good();
    cr_expect(eq(u64, agent_counter(&agent, "store_heads"), 1));
}

Test(integrity, a_sum_of_all_bytes_that_is_wrong__crc64nvme)
{
    seed_full("crc64nvme");
    damage(SIZE - 1);
    expect_refused("crc64nvme");
}

Test(integrity, a_sum_of_all_bytes_that_is_wrong__crc32c)
{
    seed_full("crc32c");
    damage(0);
    expect_refused("crc32c");
}

/* Who reads by windows may have had all of them but the one that came last. */
Test(integrity, a_reader_by_windows_is_refused_whichever_comes_last)
{
    char output[4096];

    seed_full("crc32c");
    for (size_t i = 0; i < 3; i++) {
        agent_kill(&agent);
        agent_start(&agent);
        damage(i * PART + 9);
        cr_expect(eq(int, run_get(output, sizeof output), 1), "damage in block %zu", i);
        cr_expect(has(output, "crc32c"), "%s", output);
        expect_nothing_left();
    }
}

Test(integrity, a_sum_of_sums_that_is_right)
{
    seed_composite(PART);
    expect_good();
    cr_expect(eq(u64, agent_counter(&agent, "store_heads"), 2));
}

Test(integrity, a_sum_of_sums_that_is_wrong)
{
    seed_composite(PART);
    damage(PART + 5);
    expect_refused("crc32c");
}

Test(integrity, a_sum_of_sums_of_other_parts_than_blocks_refuses_nothing)
{
    seed_composite(7 * LDR_MIB); /* three parts, as many as blocks */
    expect_good();
    cr_expect(eq(u64, agent_counter(&agent, "store_heads"), 2));
}
