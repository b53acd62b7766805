package pgtypes

// builtin is a type with an oid that is the same in every database.
type builtin struct {
	name  string
	shape shape
	codec *codec
	part  uint32 // element, bound or range
	delim byte   // 0 for a comma
}

// scalars lists the built-in types that are neither arrays nor ranges, with the
// oid of their array type, 0 if they have none.
var scalars = []struct {
	oid   uint32
	name  string
	array uint32
	codec *codec
}{
	{16, "bool", 1000, &boolCodec},
	{17, "bytea", 1001, &byteaCodec},
	{18, "char", 1002, &opaqueCodec},
	{19, "name", 1003, &textCodec},
	{20, "int8", 1016, &int8Codec},
	{21, "int2", 1005, &int2Codec},
	{22, "int2vector", 1006, &opaqueCodec},
	{23, "int4", 1007, &int4Codec},
	{24, "regproc", 1008, &opaqueCodec},
	{25, "text", 1009, &textCodec},
	{26, "oid", 1028, &oidCodec},
	{27, "tid", 1010, &opaqueCodec},
	{28, "xid", 1011, &opaqueCodec},
	{29, "cid", 1012, &opaqueCodec},
	{30, "oidvector", 1013, &opaqueCodec},
	{114, "json", 199, &jsonCodec},
	{142, "xml", 143, &opaqueCodec},
	{194, "pg_node_tree", 0, &opaqueCodec},
	{600, "point", 1017, &opaqueCodec},
	{601, "lseg", 1018, &opaqueCodec},
	{602, "path", 1019, &opaqueCodec},
	{603, "box", 1020, &opaqueCodec},
	{604, "polygon", 1027, &opaqueCodec},
	{628, "line", 629, &opaqueCodec},
	{650, "cidr", 651, &inetCodec},
	{700, "float4", 1021, &float4Codec},
	{701, "float8", 1022, &float8Codec},
	{718, "circle", 719, &opaqueCodec},
	{774, "macaddr8", 775, &macaddr8Codec},
	{790, "money", 791, &opaqueCodec},
	{829, "macaddr", 1040, &macaddrCodec},
	{869, "inet", 1041, &inetCodec},
	{1033, "aclitem", 1034, &opaqueCodec},
	{1042, "bpchar", 1014, &textCodec},
	{1043, "varchar", 1015, &textCodec},
	{1082, "date", 1182, &dateCodec},
	{1083, "time", 1183, &timeCodec},
	{1114, "timestamp", 1115, &timestampCodec},
	{1184, "timestamptz", 1185, &timestamptzCodec},
	{1186, "interval", 1187, &opaqueCodec},
	{1266, "timetz", 1270, &timetzCodec},
	{1560, "bit", 1561, &bitCodec},
	{1562, "varbit", 1563, &bitCodec},
	{1700, "numeric", 1231, &numericCodec},
	{1790, "refcursor", 2201, &textCodec},
	{2202, "regprocedure", 2207, &opaqueCodec},
	{2203, "regoper", 2208, &opaqueCodec},
	{2204, "regoperator", 2209, &opaqueCodec},
	{2205, "regclass", 2210, &opaqueCodec},
	{2206, "regtype", 2211, &opaqueCodec},
	{2950, "uuid", 2951, &uuidCodec},
	{2970, "txid_snapshot", 2949, &opaqueCodec},
	{3220, "pg_lsn", 3221, &lsnCodec},
	{3361, "pg_ndistinct", 0, &opaqueCodec},
	{3402, "pg_dependencies", 0, &opaqueCodec},
	{3614, "tsvector", 3643, &opaqueCodec},
	{3615, "tsquery", 3645, &opaqueCodec},
	{3642, "gtsvector", 3644, &opaqueCodec},
	{3734, "regconfig", 3735, &opaqueCodec},
	{3769, "regdictionary", 3770, &opaqueCodec},
	{3802, "jsonb", 3807, &jsonbCodec},
	{4072, "jsonpath", 4073, &opaqueCodec},
	{4089, "regnamespace", 4090, &opaqueCodec},
	{4096, "regrole", 4097, &opaqueCodec},
	{4191, "regcollation", 4192, &opaqueCodec},
	{4600, "pg_brin_bloom_summary", 0, &opaqueCodec},
	{4601, "pg_brin_minmax_multi_summary", 0, &opaqueCodec},
	{5017, "pg_mcv_list", 0, &opaqueCodec},
	{5038, "pg_snapshot", 5039, &opaqueCodec},
	{5069, "xid8", 271, &opaqueCodec},
}

// ranges lists the built-in ranges and multiranges with their arrays.
var ranges = []struct {
	name                                  string
	bound, oid, array, multi, multisArray uint32
	multiName                             string
}{
	{"int4range", 23, 3904, 3905, 4451, 6150, "int4multirange"},
	{"numrange", 1700, 3906, 3907, 4532, 6151, "nummultirange"},
	{"tsrange", 1114, 3908, 3909, 4533, 6152, "tsmultirange"},
	{"tstzrange", 1184, 3910, 3911, 4534, 6153, "tstzmultirange"},
	{"daterange", 1082, 3912, 3913, 4535, 6155, "datemultirange"},
	{"int8range", 20, 3926, 3927, 4536, 6157, "int8multirange"},
}

// boxOID is the only built-in type whose arrays are not separated by commas.
const boxOID = 603

// builtins holds the built-in types by oid. It never changes.
var builtins = func() map[uint32]builtin {
	m := make(map[uint32]builtin, 2*len(scalars)+4*len(ranges))
	add := func(oid, array uint32, b builtin) {
		m[oid] = b
		if array != 0 {
			m[array] = builtin{name: "_" + b.name, shape: arrayShape, part: oid}
		}
	}
	for _, s := range scalars {
		b := builtin{name: s.name, codec: s.codec}
		if s.oid == boxOID {
			b.delim = ';'
		}
		add(s.oid, s.array, b)
	}
	for _, r := range ranges {
		add(r.oid, r.array, builtin{name: r.name, shape: rangeShape, part: r.bound})
		add(r.multi, r.multisArray, builtin{name: r.multiName, shape: multirangeShape, part: r.oid})
	}
	return m
}()
