/* test_dir.h - a directory of one test, below $TMPDIR or /tmp. */
#ifndef TEST_DIR_H
#define TEST_DIR_H

#define TEST_DIR_MAX 256

/* Make it, and write its path. Ends the process with a message when it cannot. */
void test_dir_make(char path[TEST_DIR_MAX]);
/* Remove it and all that it holds; not across file systems, links are not followed. "": nothing; path becomes "". */
void test_dir_remove(char path[TEST_DIR_MAX]);

#endif
