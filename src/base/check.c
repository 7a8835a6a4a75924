/*
 * base/check.c - the end of a program that broke the contract; texts of status codes; the version.
 */
#include "base/check.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void check_failed(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("ouro: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

void check_say(const char *format, ...)
{
    va_list args;
    int before;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    va_start(args, format);
    vdprintf(STDERR_FILENO, format, args);
    va_end(args);
    pthread_setcancelstate(before, &before);
}

const char *ouro_status_text(ouro_status status)
{
    switch (status) {
    case OURO_OK:
        return "success";
    case OURO_NO_MEMORY:
        return "the operating system gave no memory";
    case OURO_INVALID:
        return "an argument is not valid";
    case OURO_LIMIT:
        return "a fixed number of things is used up";
    case OURO_SHUTDOWN:
        return "the library has been shut down";
    case OURO_BUSY:
        return "somebody else is still at it, or it is there already";
    case OURO_ABSENT:
        return "there is no such thing";
    }
    return "unknown status";
}

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const char *ouro_version(void)
{
    return TEXT(OURO_VERSION_MAJOR) "." TEXT(OURO_VERSION_MINOR) "." TEXT(OURO_VERSION_PATCH);
}
