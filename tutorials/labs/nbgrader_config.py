"""The settings of a course made of these labs; nbgrader reads the file in the course's folder."""

c = get_config()  # noqa: F821 (nbgrader provides it)

c.CourseDirectory.course_id = "control-as-inference"
c.Execute.timeout = 300  # seconds a cell; a fit takes a few, on a machine that is busy grading many more
c.Execute.startup_timeout = 300
c.ClearSolutions.code_stub = {
    "python": '# YOUR CODE HERE\nraise NotImplementedError("write your answer here, and delete this line")'
}
