#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "fuse/loopstate.h"

/* Notifications to the kernel, from a thread that answers nothing: one may wait for a page whose READ the loop has yet
 * to answer. The thread writes to /dev/fuse itself; a message with unique 0 is a notification. */
enum { NOTIFY_INC_EPOCH = 8 };

struct notice {
    struct letter letter;
    int code;
    struct fuse_notify_inval_inode_out inode;
};
struct notifier {
    struct mailbox *box;
    pthread_t thread;
    int dev;
};

static void send_notice(int dev, struct notice *n)
{
    bool names = n->code == NOTIFY_INC_EPOCH;
    struct fuse_out_header out = {.error = n->code};
    struct iovec iov[2] = {{&out, sizeof out}, {&n->inode, sizeof n->inode}};
    out.len = (uint32_t)(sizeof out + (names ? 0 : sizeof n->inode));
    /* ENOENT: the kernel does not have that inode. ENODEV: unmounted. EINVAL: an old kernel. None asks for more. */
    ssize_t ignored = writev(dev, iov, names ? 1 : 2);
    (void)ignored;
}

static void *notifier_run(void *arg)
{
    struct notifier *n = arg;
    struct list notices;
    while (mailbox_wait(n->box, &notices)) {
        list_for_each_safe(node, next, &notices)
        {
            struct notice *notice =
                container_of(list_entry(node, struct letter, node), struct notice, letter);
            send_notice(n->dev, notice);
            free(notice);
        }
    }
    return NULL;
}

struct notifier *notifier_new(int dev_fd)
{
    struct notifier *n = xcalloc(1, sizeof *n);
    n->dev = dev_fd;
    n->box = mailbox_new(NULL, NULL);
    CHECK(pthread_create(&n->thread, NULL, notifier_run, n) == 0);
    return n;
}

void notifier_free(struct notifier *n)
{
    if (n) {
        mailbox_close(n->box);
        pthread_join(n->thread, NULL);
        mailbox_free(n->box);
        free(n);
    }
}

void notifier_inode(struct notifier *n, uint64_t nodeid, int64_t offset, int64_t length)
{
    struct notice *notice = xcalloc(1, sizeof *notice);
    notice->code = FUSE_NOTIFY_INVAL_INODE;
    notice->inode = (struct fuse_notify_inval_inode_out){.ino = nodeid, .off = offset, .len = length};
    mailbox_post(n->box, &notice->letter);
}

void notifier_names(struct notifier *n)
{
    struct notice *notice = xcalloc(1, sizeof *notice);
    notice->code = NOTIFY_INC_EPOCH;
    mailbox_post(n->box, &notice->letter);
}
