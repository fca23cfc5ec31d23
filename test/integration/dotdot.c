/* dotdot DIR: the inode number that readdir gives for ".." there. (`ls -i` asks stat.) */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    DIR *d = argc == 2 ? opendir(argv[1]) : NULL;
    if (d == NULL) {
        perror("dotdot");
        return 1;
    }
    int rc = 1;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, "..") == 0) {
            printf("%llu\n", (unsigned long long)e->d_ino);
            rc = 0;
        }
    }
    closedir(d);
    return rc;
}
