#ifndef CFS_BASE_LIST_H
#define CFS_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"

/* Intrusive doubly linked ring. The struct that embeds the node owns it; a node
 * that is in no list points to itself, so list_remove may be called twice. */
struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_add_tail(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}
static inline void list_add_head(struct list *head, struct list *node)
{
    list_add_tail(head->next, node);
}
static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
/* Moves all members of `from` to the empty list `to`. */
static inline void list_take_all(struct list *from, struct list *to)
{
    list_init(to);
    if (!list_empty(from)) {
        *to = *from;
        to->next->prev = to;
        to->prev->next = to;
        list_init(from);
    }
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(head, type, member) \
    (list_empty(head) ? NULL : list_entry((head)->next, type, member))
#define list_for_each(node, head) \
    for (struct list *node = (head)->next; node != (head); node = node->next)
/* Safe against removal of the current node only. */
#define list_for_each_safe(node, follow, head) \
    for (struct list *node = (head)->next, *follow = node->next; node != (head); \
         node = follow, follow = node->next)

#endif
