"""A small client of liblarder over cffi, in ABI mode: what a Python binding has to do about lifetimes, errors, threads
and fork(), and no more. The declarations are read from larder.h itself, so these tests see what its users see.

    with Larder(cache_dir) as l:
        view = l.get("s3://bucket/key")   # a read-only memoryview; its bytes live as long as it, or a slice of it, does

Times are seconds: None is no limit, 0 is "only what the cache has".
"""
import math
import os
import re

import cffi

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.join(ROOT, os.environ.get("LDR_TEST_BUILD", "build"))


def has(name):
    """Is it in larder.h? Tests of newer calls skip themselves on an older tree."""
    return name + "(" in declarations()


def declarations():
    """The text of the two installed headers that a compiler would see behind their preprocessor lines."""
    text = ""
    for name in ("common/larder_err.h", "client/larder.h"):
        with open(os.path.join(ROOT, name)) as f:
            header = f.read()
        header = re.sub(r"#ifdef __cplusplus.*?#endif", "", header, flags=re.S)
        text += re.sub(r"^\s*#.*?$", "", header, flags=re.M)
    return text


def sanitizer(path):
    """A library that needs a sanitizer's runtime cannot be loaded by a plain Python: the tests are skipped then."""
    with open(path, "rb") as f:
        found = re.search(rb"__([at]san|ubsan)_", f.read())
    return found and found[1].decode()


LIBRARY = os.path.join(BUILD, "lib/liblarder.so")
SANITIZER = sanitizer(LIBRARY)
ffi = cffi.FFI()
ffi.cdef(declarations())
lib = None if SANITIZER else ffi.dlopen(LIBRARY)
KINDS = {int(number): name[len("LARDER_"):].lower()
         for number, name in ffi.typeof("enum larder_kind").elements.items()}


class LarderError(Exception):
    """A call that failed. Decide by the class, or `kind` ("not_found")."""

    def __init__(self, kind, message="", sys=0, http=0):
        super().__init__(message)
        self.kind, self.sys, self.http = kind, sys, http

    def __reduce__(self):  # across multiprocessing
        return type(self), (self.kind, str(self), self.sys, self.http)


# One class for each kind, which also is the built-in exception that callers know.
BUILT_IN = {"not_found": FileNotFoundError, "denied": PermissionError, "invalid": ValueError, "exists": FileExistsError,
            "timeout": TimeoutError, "unavailable": ConnectionError, "no_agent": ConnectionError, "io": OSError,
            "no_memory": MemoryError, "unsupported": NotImplementedError}
ERRORS = {name: type("".join(w.capitalize() for w in name.split("_")) + "Error",
                     (LarderError,) + ((BUILT_IN[name],) if name in BUILT_IN else ()), {"__module__": __name__})
          for name in KINDS.values() if name != "ok"}
globals().update({c.__name__: c for c in ERRORS.values()})  # for pickle


def check(kind, err):
    if kind == lib.LARDER_OK:
        return
    name = KINDS.get(kind, "internal")
    raise ERRORS[name](name, ffi.string(err.msg).decode("utf-8", "replace"), err.sys, err.http)


def c_text(text):
    """A reference as C takes it. NUL would end it early there, so it is refused here."""
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise ERRORS["invalid"]("invalid", "a reference holds no NUL")
    return raw


def ms(seconds):
    if seconds is None:
        return -1
    return max(0, min(math.ceil(seconds * 1000), 2**31 - 1))  # a little time is not "no time"


class Meta:
    def __init__(self, m):
        self.exists, self.size = bool(lib.larder_meta_exists(m)), lib.larder_meta_size(m)
        modified = lib.larder_meta_last_modified(m)
        self.last_modified = None if modified == -2**63 else modified
        for number, name in ffi.typeof("enum larder_meta_field").elements.items():
            text = lib.larder_meta_text(m, number)
            setattr(self, name[len("LARDER_META_"):].lower(), ffi.string(text).decode() if text else None)
        self.user, name, value = {}, ffi.new("char **"), ffi.new("char **")
        while lib.larder_meta_user(m, len(self.user), name, value):
            self.user[ffi.string(name[0]).decode()] = ffi.string(value[0]).decode()


class View:
    """The bytes of one object and what is known of them. The C object ends with the last memoryview of it."""

    def __init__(self, o):
        self.was_hit = bool(lib.larder_object_was_hit(o))
        size = lib.larder_object_size(o)
        if hasattr(lib, "larder_object_total"):
            number = ffi.new("uint64_t[2]")
            lib.larder_object_id(o, number)
            self.offset, self.total, self.id = lib.larder_object_offset(o), lib.larder_object_total(o), tuple(number)
        # cffi's buffer keeps `data` alive, a memoryview its buffer, a slice its memoryview. The order of freeing does not
        # matter to C: an object may outlive its larder.
        data = ffi.gc(ffi.cast("void *", lib.larder_object_data(o)),
                      lambda _: lib.larder_object_free(ffi.new("struct larder_object **", o)))
        self.data = memoryview(ffi.buffer(data, size)).toreadonly()


def put_opts(content_type=None, user=(), create_only=False, if_match=None, content_encoding=None, cache_control=None,
             content_disposition=None, content_language=None):
    """The options and what they point to, which must be kept."""
    opts = ffi.new("struct larder_put_opts *")
    opts.struct_size, opts.create_only = ffi.sizeof("struct larder_put_opts"), create_only
    texts = [ffi.new("char[]", t.encode()) for pair in dict(user).items() for t in pair]
    pairs, keep = ffi.new("char *[]", texts), [texts]
    opts.user, opts.n_user = pairs, len(texts) // 2
    keep.append(pairs)
    for name, text in (("content_type", content_type), ("if_match", if_match), ("content_encoding", content_encoding),
                       ("cache_control", cache_control), ("content_disposition", content_disposition),
                       ("content_language", content_language)):
        if text is not None:
            keep.append(ffi.new("char[]", text.encode()))
            setattr(opts, name, keep[-1])
    return opts, keep


SIZE_UNKNOWN = 2**64 - 1  # LARDER_SIZE_UNKNOWN: a macro, which cffi does not see


class Writer:
    """An object that is written piece by piece. Leaving its block commits it; an exception there aborts it."""

    def __init__(self, l, w):
        self._larder, self._w = l, w  # the larder outlives it

    def _call(self, function, *arguments):
        err = ffi.new("struct larder_err *")
        if not self._w[0]:
            raise ValueError("this writer is done")
        check(function(*arguments, err), err)

    def write(self, data):
        with ffi.from_buffer("char[]", data) as b:
            self._call(lib.larder_writer_write, self._w[0], b, len(b))

    def read_from(self, file):
        """All that `file.readinto()` gives, without a copy; the number of bytes."""
        room, n, total = ffi.new("void **"), ffi.new("size_t *"), 0
        while True:
            self._call(lib.larder_writer_room, self._w[0], room, n)
            got = file.readinto(ffi.buffer(room[0], n[0]))
            if not got:
                return total
            self._call(lib.larder_writer_filled, self._w[0], got)
            total += got

    def commit(self):
        self._call(lib.larder_writer_commit, self._w)

    def abort(self):
        lib.larder_writer_abort(self._w)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.commit()
        else:
            self.abort()


class Larder:
    def __init__(self, cache_dir=None):
        self.cache_dir, out, err = cache_dir, ffi.new("struct larder **"), ffi.new("struct larder_err *")
        check(lib.larder_open(ffi.NULL if cache_dir is None else c_text(cache_dir), out, err), err)
        # Each call holds a reference, so the handle ends with the last call even if another thread closes it before.
        self._l = ffi.gc(out[0], lambda l: lib.larder_close(ffi.new("struct larder **", l)))

    def close(self):
        self._l = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):  # a process that was not forked opens its own
        return Larder, (self.cache_dir,)

    def _call(self, function, *arguments):
        handle, err = self._l, ffi.new("struct larder_err *")
        if handle is None:
            raise ValueError("this larder is closed")
        check(function(handle, *arguments, err), err)

    def view(self, uri, timeout=None):
        out = ffi.new("struct larder_object **")
        self._call(lib.larder_get, c_text(uri), ms(timeout), out)
        return View(out[0])

    def get(self, uri, timeout=None):
        return self.view(uri, timeout).data

    def get_range(self, uri, offset, length=0, timeout=None):
        out = ffi.new("struct larder_object **")
        self._call(lib.larder_get_range, c_text(uri), offset, length, ms(timeout), out)
        return View(out[0])

    def get_into(self, uri, buffer, timeout=None):
        size = ffi.new("uint64_t *")
        with ffi.from_buffer("char[]", buffer, require_writable=True) as b:
            self._call(lib.larder_get_into, c_text(uri), b, len(b), ms(timeout), size)
        return size[0]

    def read(self, uri, offset, buffer, timeout=None):
        """(bytes read, bytes of the whole object)"""
        got, total = ffi.new("size_t *"), ffi.new("uint64_t *")
        with ffi.from_buffer("char[]", buffer, require_writable=True) as b:
            self._call(lib.larder_read, c_text(uri), offset, b, len(b), ms(timeout), got, total)
        return got[0], total[0]

    def get_many(self, uris, timeout=None):
        """A View or a LarderError for each, in order."""
        keep = [ffi.new("char[]", c_text(u)) for u in uris]
        out, results, err = ffi.new("struct larder_result[]", len(keep)), [], ffi.new("struct larder_err *")
        lib.larder_get_many(self._l, ffi.new("char *[]", keep), len(keep), ms(timeout), out, err)
        for r in out:
            try:
                check(r.kind, r.err)
                results.append(View(r.object))
            except LarderError as e:
                results.append(e)
        return results

    def _with_callback(self, kind_of_callback, python, call):
        """A call with a callback. An exception in it ends the call where the callback can say so, and is raised."""
        raised = []

        def onerror(_, e, __):
            raised.append(e)
        stops = "status" not in kind_of_callback
        callback = ffi.callback(kind_of_callback + " *", python, onerror=onerror,
                                **({"error": lib.LARDER_CANCELLED} if stops else {}))
        try:
            call(callback)
        except LarderError:
            if not raised:
                raise
        if raised:
            raise raised[0]

    def stream(self, uri, write, timeout=None):
        def each(_, p, n, offset, size):
            write(bytes(ffi.buffer(p, n)), offset, size)
            return lib.LARDER_OK
        self._with_callback("larder_write_fn", each,
                            lambda c: self._call(lib.larder_stream, c_text(uri), ms(timeout), c, ffi.NULL))

    def list(self, prefix, delimiter=None, timeout=None):
        """[(uri, size or None for a group of keys)]"""
        entries, opts = [], ffi.new("struct larder_list_opts *")
        opts.struct_size = ffi.sizeof("struct larder_list_opts")
        keep = ffi.NULL if delimiter is None else ffi.new("char[]", delimiter.encode())
        opts.delimiter = keep

        def each(_, e):
            entries.append((os.fsdecode(ffi.string(e.uri)), None if e.is_prefix else e.size))
            return lib.LARDER_OK
        self._with_callback("larder_list_fn", each, lambda c: self._call(
            lib.larder_list, c_text(prefix), opts, ms(timeout), c, ffi.NULL, ffi.NULL))
        return entries

    def _items(self, call):
        items = {}

        def each(_, name, text, number):
            items[ffi.string(name).decode()] = ffi.string(text).decode() if text else number
        self._with_callback("larder_status_fn", each, call)
        return items

    def status(self, timeout=None):
        return self._items(lambda c: self._call(lib.larder_status, ms(timeout), c, ffi.NULL))

    def why(self, uri, timeout=None):
        return self._items(lambda c: self._call(lib.larder_why, c_text(uri), ms(timeout), c, ffi.NULL))

    def head(self, uri, timeout=None):
        out = ffi.new("struct larder_meta **")
        self._call(lib.larder_head, c_text(uri), ms(timeout), out)
        try:
            return Meta(out[0])
        finally:
            lib.larder_meta_free(out)

    def put(self, uri, data, timeout=None, **options):
        opts, _keep = put_opts(**options)
        with ffi.from_buffer("char[]", data) as b:
            self._call(lib.larder_put, c_text(uri), b, len(b), opts, ms(timeout))

    def writer(self, uri, size=None, timeout=None, **options):
        opts, _keep = put_opts(**options)
        out = ffi.new("struct larder_writer **")
        self._call(lib.larder_writer_open, c_text(uri), SIZE_UNKNOWN if size is None else size, opts, ms(timeout), out)
        return Writer(self._l, out)

    def delete_many(self, uris, timeout=None):
        """None or a LarderError for each, in order."""
        keep = [ffi.new("char[]", c_text(u)) for u in uris]
        out, results, err = ffi.new("struct larder_result[]", len(keep)), [], ffi.new("struct larder_err *")
        lib.larder_delete_many(self._l, ffi.new("char *[]", keep), len(keep), ms(timeout), out, err)
        for r in out:
            try:
                results.append(check(r.kind, r.err))
            except LarderError as e:
                results.append(e)
        return results

    def sign(self, uri, put=False, lifetime=0, content_md5=None, content_type=None, timeout=None):
        """(url, {header: value}, expires)"""
        opts, out = ffi.new("struct larder_sign_opts *"), ffi.new("struct larder_signed *")
        opts.struct_size, opts.put, opts.lifetime_s = ffi.sizeof("struct larder_sign_opts"), put, lifetime
        keep = [ffi.NULL if t is None else ffi.new("char[]", t.encode()) for t in (content_md5, content_type)]
        opts.content_md5, opts.content_type = keep
        self._call(lib.larder_sign, c_text(uri), opts, ms(timeout), out)
        try:
            headers = [ffi.string(out.headers[i]).decode() for i in range(out.n_headers)]
            return ffi.string(out.url).decode(), dict(h.split(": ", 1) for h in headers), out.expires
        finally:
            lib.larder_signed_free(out)

    def delete(self, uri, timeout=None):
        self._call(lib.larder_delete, c_text(uri), ms(timeout))

    def copy(self, source, target, timeout=None):
        self._call(lib.larder_copy, c_text(source), c_text(target), ms(timeout))

    def counts(self):
        out = ffi.new("struct larder_counts *")
        lib.larder_get_counts(self._l, out, ffi.sizeof('struct larder_counts'))
        return {name: getattr(out, name) for name, _ in ffi.typeof("struct larder_counts").fields}
