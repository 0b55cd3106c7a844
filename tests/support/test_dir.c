/* test_dir.c - see test_dir.h. */
#include "tests/support/test_dir.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

void test_dir_make(char path[TEST_DIR_MAX])
{
    const char *base = getenv("TMPDIR");

    if (!base || !*base)
        base = "/tmp";
    if (snprintf(path, TEST_DIR_MAX, "%s/larder-test-XXXXXX", base) >= TEST_DIR_MAX || !mkdtemp(path)) {
        fprintf(stderr, "could not make a directory below \"%s\"\n", base);
        abort();
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    if (type == FTW_DNR) /* a test took the right to read it: rmdir() may do */
        chmod(path, 0700);
    remove(path);
    return 0;
}

void test_dir_remove(char path[TEST_DIR_MAX])
{
    if (*path)
        nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    *path = '\0';
}
