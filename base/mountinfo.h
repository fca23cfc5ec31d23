#ifndef CFS_BASE_MOUNTINFO_H
#define CFS_BASE_MOUNTINFO_H

/* Undoes, in place, the escapes of /proc/self/mountinfo: a backslash and three octal digits. What
 * is none stays. */
void mountinfo_unescape(char *text);

#endif
